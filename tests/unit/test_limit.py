"""The limit a runtime is held against: the work of a hop is what the weights say, the peak is what was measured."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import msgspec
import pytest

from edge.bench.limit import Peak, Work, hop_work, measure_peak
from edge.runtime.native_build import runnable_builds
from edge.runtime.weights import read_weights
from tests.random_models import random_bundle
from trainer.model import ModelConfig


def test_every_weight_of_a_matrix_is_one_multiply_add_a_frame(tmp_path: Path) -> None:
    bundle = random_bundle(tmp_path / "bundle", ModelConfig())
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


def test_the_stems_convolutions_count_as_often_as_they_run(tmp_path: Path) -> None:
    plain = ModelConfig(d_model=16, n_layers=1, d_state=4, stem_kernel=5)
    deep = dataclasses.replace(plain, stem_layers=((8, 7, 1), (12, 5, 2)))
    one, three = (hop_work(random_bundle(tmp_path / name, config).manifest, 100) for name, config in
                  (("one", plain), ("three", deep)))  # fmt: skip
    stem = 100 * 8 * 7 * 12 + 50 * 12 * 5 * 8 + 25 * 16 * 5 * 12
    assert three.multiply_adds - one.multiply_adds == stem - 25 * 16 * 5 * 12
    assert three.exponentials - one.exponentials == 100 * 8 + 50 * 12


def test_the_limit_is_the_time_of_both_kinds_of_work_one_after_the_other() -> None:
    assert Peak(100.0, 10.0).seconds(Work(50, 20)) == pytest.approx(2.5)


@pytest.mark.parametrize("width", runnable_builds())
def test_a_peak_is_measured_at_every_width_and_exponentials_cost_more(
    width: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("edge.bench.limit.TRIALS", 5)
    peak = measure_peak(width)
    assert peak.multiply_adds_per_s > peak.exponentials_per_s > 0
