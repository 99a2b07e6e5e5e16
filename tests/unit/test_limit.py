"""The limit a runtime is held against: the work of a hop is what the weights say, the peak is what was measured."""

from __future__ import annotations

import msgspec
import pytest

from edge.bench.limit import Peak, Work, hop_work, measure_peak
from edge.runtime.bundle import load_bundle
from edge.runtime.native_build import runnable_builds
from edge.runtime.weights import read_weights


def test_every_weight_of_a_matrix_is_one_multiply_add_a_frame() -> None:
    bundle = load_bundle()
    manifest, weights = bundle.manifest, read_weights(bundle)
    frames = manifest.hop_samples // manifest.stride
    matrices = {name: w.size for name, w in weights.items() if name.endswith("weight") and w.ndim > 1}
    head = matrices.pop("head.weight")
    decays = sum(w.size for name, w in weights.items() if name.endswith("A_log"))
    channels = sum(w.size for name, w in weights.items() if name.endswith(".D"))
    free = msgspec.structs.replace(manifest, model={**manifest.model, "decays": "free"})
    work = hop_work(free, manifest.hop_samples)
    assert work.multiply_adds == frames * (sum(matrices.values()) + 3 * decays) + head
    assert work.exponentials == frames * (decays + 3 * channels)
    multiples = msgspec.structs.replace(manifest, model={**manifest.model, "decays": "multiples"})
    less = hop_work(multiples, manifest.hop_samples)
    spared = frames * (decays - channels)
    assert (less.multiply_adds, less.exponentials) == (work.multiply_adds + spared, work.exponentials - spared)


def test_the_limit_is_the_time_of_both_kinds_of_work_one_after_the_other() -> None:
    assert Peak(100.0, 10.0).seconds(Work(50, 20)) == pytest.approx(2.5)


@pytest.mark.parametrize("width", runnable_builds())
def test_a_peak_is_measured_at_every_width_and_exponentials_cost_more(
    width: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("edge.bench.limit.TRIALS", 5)
    peak = measure_peak(width)
    assert peak.multiply_adds_per_s > peak.exponentials_per_s > 0
