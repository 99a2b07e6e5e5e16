"""`ecg-trainer tune` on streams: operating points for a budget, from what is kept."""

from __future__ import annotations

import msgspec
import numpy as np
import pytest

from edge.daemon.alert_settings import alert_policy
from edge.daemon.config import AlertsConfig
from edge.runtime.bundle import load_bundle
from tests.tiny_bundle import tiny_bundle
from tests.tiny_ptbxl import rows_of, write_ptbxl
from trainer.predict import score
from trainer.ptbxl import open_ptbxl

ALERTING = ["MI", "STTC", "CD", "HYP"]


def test_a_budget_is_tuned_again_from_what_is_kept(result_of, root, bundle_path, folder, capsys):
    words = ("tune", "--data", root, "--bundle", bundle_path)
    result_of(*words)
    kept = {path: path.stat().st_mtime_ns for path in (folder / "cache").glob("*.npz")}
    loose = result_of(*words, "--budget", 50)
    assert {path: path.stat().st_mtime_ns for path in (folder / "cache").glob("*.npz")} == kept
    alerts = loose["metrics"]["alerts"]
    assert alerts["budget_per_hour"] == 50
    assert [row["budget_per_hour"] for row in alerts["trade_off"]["MI"]] == [0.25, 0.5, 1, 2, 4, 8, 50]
    written = load_bundle(bundle_path).manifest
    assert written.metrics["macro_f1_crossfit"] == loose["metrics"]["macro_f1_crossfit"]
    for name in ALERTING:
        assert written.operating_points[name].on == alerts["points"][name]["on"]
    assert "--budget 50" in written.metrics["command"]


def test_a_shorter_window_is_served_with_thresholds_of_its_own(result_of, root, tmp_path):
    path = tiny_bundle(tmp_path / "votes", vote_hops=2).path
    result = result_of("tune", "--data", root, "--bundle", path, "--window", 4)
    assert (result["before"]["window_s"], result["after"]["window_s"]) == (10.0, 4.0)
    assert result["metrics"]["command"].endswith("--budget 1 --window 4")
    written = load_bundle(path)
    assert (written.manifest.window_s, written.manifest.votes) == (4.0, 3)
    data = open_ptbxl(root)
    whole, streamed = (score(written, data, data.rows([9]), mode).logits for mode in ("batch", "stream"))
    np.testing.assert_allclose(streamed, whole, atol=1e-4)


@pytest.mark.parametrize(("seconds", "named"), [(1, "vote_hops"), (4.5, "whole hops")])
def test_a_window_that_is_none_is_refused_and_nothing_is_written(command, root, tmp_path, seconds, named):
    path = tiny_bundle(tmp_path / "votes", vote_hops=2).path
    before = (path / "manifest.json").read_bytes()
    status, printed = command("tune", "--data", root, "--bundle", path, "--window", seconds)
    assert status == 2
    assert named in printed.err
    assert (path / "manifest.json").read_bytes() == before


def test_a_window_that_is_in_the_graph_stays(command, root, bundle_path):
    status, printed = command("tune", "--data", root, "--bundle", bundle_path, "--window", 4)
    assert status == 2
    assert "pools its whole window in its graph" in printed.err


def test_without_healthy_records_alerts_keep_their_thresholds_and_it_says_so(result_of, bundle_path, tmp_path):
    ill = write_ptbxl(tmp_path / "ill", rows_of(["IMI", "NDT", "LAFB", "LVH"] * 3, [9]))
    before = load_bundle(bundle_path).manifest.operating_points
    result = result_of("tune", "--data", ill, "--bundle", bundle_path)
    after = load_bundle(bundle_path).manifest.operating_points
    assert all(after[name].on == before[name].on for name in ALERTING)
    assert result["metrics"]["alerts"] is None
    assert any("NORM" in note and "streams" in note for note in result["notes"])


def test_a_broken_cache_is_made_anew(result_of, root, bundle_path, folder):
    words = ("tune", "--data", root, "--bundle", bundle_path)
    before = result_of(*words)
    for path in (folder / "cache").glob("*.npz"):
        path.write_bytes(b"not a zip file")
    assert result_of(*words)["after"] == before["after"]


@pytest.mark.parametrize(
    ("codes", "noted"),
    [
        (["NORM"], "alerts keep"),
        (["NORM", "IMI"], "alerts keep"),
        (["NORM", "NORM"], "MI keeps its alert"),
        (["NORM", "NORM", "IMI"], "MI keeps its alert"),
        (["IMI"], "alerts keep"),
    ],
)
def test_a_few_records_tune_what_they_can_and_name_what_is_missing(result_of, bundle_path, tmp_path, codes, noted):
    few = write_ptbxl(tmp_path / "few", rows_of(codes, [9]))
    before = load_bundle(bundle_path).manifest.operating_points["MI"]
    result = result_of("tune", "--data", few, "--bundle", bundle_path)
    after = load_bundle(bundle_path).manifest.operating_points["MI"]
    assert (after.on, after.off, after.dwell_s) == (before.on, before.off, before.dwell_s)
    (note,) = [note for note in result["notes"] if note.startswith(noted)]
    assert "two patients" in note


def test_the_daemon_decides_by_what_tuning_wrote(result_of, root, bundle_path):
    tuned = result_of("tune", "--data", root, "--bundle", bundle_path)["metrics"]["alerts"]["points"]
    policy = alert_policy(AlertsConfig(), load_bundle(bundle_path).manifest)
    assert policy.alerting == tuple(tuned)
    for name, point in tuned.items():
        assert msgspec.to_builtins(policy.points[name]) == point
        assert policy.dwell_hops(name) == max(1, point["dwell_s"])  # hops of a second
