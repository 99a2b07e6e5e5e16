"""`ecg-trainer monitor-state`, and the ranges in a manifest: measured the same way every time, checked when read."""

from __future__ import annotations

import json

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst

from edge.errors import BundleError
from edge.runtime.bundle import MANIFEST_NAME, load_bundle, read_manifest, write_manifest
from edge.runtime.manifest import StateMonitor, StateRange
from tests.tiny_bundle import tiny_manifest
from trainer.cli import main
from trainer.state_monitor import LIMIT_FACTOR, range_of

RANGE = StateRange(p50=1.0, p99=2.0, p99_9=3.0, max=4.0, limit=8.0)
SHORT = ["--streams", "3", "--seconds", "40"]


def test_the_command_writes_the_ranges_of_the_training_folds_into_the_manifest(root, bundle_path, result_of):
    printed = result_of("monitor-state", "--data", root, "--bundle", bundle_path, *SHORT)
    monitor = load_bundle(bundle_path).manifest.state_monitor
    assert msgspec.to_builtins(monitor) == printed["state_monitor"]
    assert set(monitor.tensors) == {"ssm_0"}
    measured = monitor.measured
    assert measured["folds"] == [8]  # of those it was trained on, 1-8, all that this copy of PTB-XL holds
    assert (measured["streams"], measured["seconds"], measured["seed"]) == (3, 40.0, 0)
    assert measured["hops"] == 3 * 30  # but the window in which a state fills


def test_the_same_command_gives_the_same_ranges_and_another_seed_others(root, bundle_path, result_of):
    words = ["monitor-state", "--data", root, "--bundle", bundle_path, *SHORT]
    first = result_of(*words)["state_monitor"]
    assert result_of(*words)["state_monitor"] == first  # although a monitor stood in the manifest this time
    assert result_of(*words, "--seed", 1)["state_monitor"]["tensors"] != first["tensors"]


def test_tuning_keeps_the_monitor_and_monitoring_keeps_what_was_tuned(root, bundle_path, result_of):
    result_of("monitor-state", "--data", root, "--bundle", bundle_path, *SHORT)
    before = read_manifest(bundle_path)
    result_of("tune", "--data", root, "--bundle", bundle_path)
    tuned = read_manifest(bundle_path)
    assert tuned.state_monitor == before.state_monitor
    result_of("monitor-state", "--data", root, "--bundle", bundle_path, *SHORT)
    assert read_manifest(bundle_path) == tuned


def test_a_model_without_a_recurrence_has_nothing_to_watch(root, bundle_path, capsys):
    manifest = read_manifest(bundle_path)
    kept = [tensor for tensor in manifest.state if not tensor.name.startswith("ssm_")]
    write_manifest(bundle_path, msgspec.structs.replace(manifest, state=kept))
    assert main(["monitor-state", "--data", str(root), "--bundle", str(bundle_path)]) == 2
    assert "no state to watch" in capsys.readouterr().err


@given(seen=npst.arrays(np.float64, st.integers(1, 200), elements=st.floats(1e-3, 1e6)))
def test_a_range_rises_and_covers_all_that_was_seen_whatever_that_was(seen):
    found = range_of(seen)
    assert found.rises
    assert found.max == pytest.approx(seen.max(), rel=1e-5)
    assert found.limit == pytest.approx(LIMIT_FACTOR * seen.max(), rel=1e-5)


def test_a_manifest_without_a_monitor_is_read_as_ever(bundle_path):
    path = bundle_path / MANIFEST_NAME
    written = json.loads(path.read_text())
    written.pop("state_monitor", None)
    path.write_text(json.dumps(written))
    assert load_bundle(bundle_path).manifest.state_monitor is None


@pytest.mark.parametrize(
    ("tensors", "problem"),
    [
        ({"ssm_7": RANGE}, "not in state"),
        ({"ssm_0": msgspec.structs.replace(RANGE, limit=3.5)}, "must be positive and rise"),
        ({"ssm_0": msgspec.structs.replace(RANGE, p50=0.0)}, "must be positive and rise"),
        ({"ssm_0": msgspec.structs.replace(RANGE, p99=-1.0)}, "must be positive and rise"),
        ({"ssm_0": msgspec.structs.replace(RANGE, limit=float("inf"))}, "must be positive and rise"),
    ],
)
def test_a_monitor_that_cannot_be_right_is_named(tensors, problem):
    (found,) = tiny_manifest(state_monitor=StateMonitor(tensors)).problems()
    assert problem in found


@pytest.mark.parametrize("broken", [{"tensors": {}}, {"tensors": {"ssm_0": {"p50": 1}}}, {"limits": {}}, 5])
def test_a_monitor_that_cannot_be_read_is_refused_with_its_bundle(bundle_path, broken):
    path = bundle_path / MANIFEST_NAME
    path.write_text(json.dumps(json.loads(path.read_text()) | {"state_monitor": broken}))
    with pytest.raises(BundleError, match="state_monitor"):
        read_manifest(bundle_path)
