"""`ecg-trainer stream-evaluate`: every part in one JSON object, in tables and in plots."""

from __future__ import annotations

import json

import msgspec
import numpy as np
import pytest

from edge.runtime.bundle import read_manifest, write_manifest
from tests.tiny_ptbxl import rows_of, write_ptbxl
from trainer.cli import main
from trainer.ptbxl import CLASSES
from trainer.stream_evaluation.measure import PARTS
from trainer.stream_evaluation.result import StreamEvaluation

ALERTING = ["MI", "STTC", "CD", "HYP"]


def test_every_part_is_in_the_result_and_in_the_plots(result_of, root, bundle_path, tmp_path):
    result = result_of("stream-evaluate", "--data", root, "--bundle", bundle_path, "--quick", "--bootstrap", 20,
                       "--plots", tmp_path / "plots")  # fmt: skip
    assert [row["minutes"] for row in result["warm"]] == [0.0, 0.5, 1.0]
    assert result["warm"][0]["auc"]["difference"] == 0.0
    assert [row["seconds"] for row in result["seconds"]] == list(range(1, 11))
    assert result["seconds"][-1]["cold"]["macro"] == result["warm"][0]["auc"]["macro"]
    assert result["seconds"][-1]["warm"]["macro"] == result["warm"][-1]["auc"]["macro"]
    assert list(result["alerts"]["per_class"]) == ALERTING
    assert sum(row["auc"]["records"] for row in result["groups"] if row["by"] == "sex") == 20
    own, *others = result["windows"]
    assert (own["window_s"], own["hop_s"], own["votes"], own["auc"]["difference"]) == (10.0, 1.0, 1, 0.0)
    assert {(row["votes"], row["vote_s"]) for row in others} >= {(8, 3.0), (1, 4.0)}
    assert result["robustness"][0]["name"] == "clean"
    assert result["robustness"][0]["auc"]["macro"] == pytest.approx(result["warm"][0]["auc"]["macro"])
    assert (result["n_records"], result["folds"], result["classes"]) == (20, [9], list(CLASSES))
    assert any("nstdb" in note for note in result["notes"])
    names = {path.name for path in (tmp_path / "plots").iterdir()}
    panels = ["warm", "seconds", "delays", "false_alerts", "trade_off_detected", "trade_off_delay", "robustness"]
    assert names == {f"{panel}.png" for panel in [*panels, "groups", "streaming"]}
    assert sorted(result["plots"]) == sorted(str(tmp_path / "plots" / name) for name in names)
    assert msgspec.convert(result, StreamEvaluation).took_s == result["took_s"]


def test_only_what_is_asked_for_is_measured(result_of, root, bundle_path):
    result = result_of("stream-evaluate", "--data", root, "--bundle", bundle_path, "--quick", "--only", "seconds",
                       "--joins", "hard")  # fmt: skip
    assert [part for part in PARTS if result[part] is not None] == ["seconds"]
    assert "--only seconds --joins hard" in result["command"]
    assert str(root) not in json.dumps(result)


def test_the_same_seed_gives_the_same_figures(result_of, root, bundle_path):
    words = ("stream-evaluate", "--data", root, "--bundle", bundle_path, "--quick", "--only", "warm", "--bootstrap", 0)
    first, again, other = result_of(*words), result_of(*words), result_of(*words, "--seed", 1)
    assert first["warm"] == again["warm"]
    assert first["warm"] != other["warm"]


def test_published_probabilities_are_ranked_not_single_outputs(result_of, root, bundle_path):
    manifest = read_manifest(bundle_path)
    leaning = np.random.default_rng(0).normal(size=(5, 5)) * (1 - np.eye(5))
    calibration = msgspec.structs.replace(manifest.calibration, others=leaning.tolist())
    evaluate = ("evaluate", "--data", root, "--bundle", bundle_path, "--folds", 9, "--mode", "stream", "--bootstrap", 0)
    streams = ("stream-evaluate", "--data", root, "--bundle", bundle_path, "--quick", "--only", "warm", "groups",
               "--bootstrap", 0)  # fmt: skip
    alone = result_of(*evaluate)["macro_auc"]
    write_manifest(bundle_path, msgspec.structs.replace(manifest, calibration=calibration))
    together = result_of(*evaluate)["macro_auc"]
    assert together != alone
    assert result_of(*streams)["warm"][0]["auc"]["macro"] == together


def test_without_json_tables_name_what_was_measured(capsys, root, bundle_path):
    words = ["stream-evaluate", "--data", root, "--bundle", bundle_path, "--quick", "--only", "alerts", "warm"]
    assert main([*map(str, words)]) == 0
    printed = capsys.readouterr().out
    assert all(word in printed for word in (*ALERTING, "cold", "1 min", "restless", "steady"))


def test_without_healthy_records_there_are_no_alert_figures_and_it_says_so(result_of, bundle_path, tmp_path):
    ill = write_ptbxl(tmp_path / "ill", rows_of(["IMI", "NDT", "LAFB", "LVH"] * 3, [9]))
    result = result_of("stream-evaluate", "--data", ill, "--bundle", bundle_path, "--quick", "--only", "alerts")
    assert result["alerts"] is None
    assert any("NORM" in note for note in result["notes"])
