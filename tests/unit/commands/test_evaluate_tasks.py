"""`evaluate`, `stream-evaluate` and `tune` ask a bundle what its model was trained for, whatever the task."""

from __future__ import annotations

import pytest

from edge.runtime.bundle import load_bundle
from export.bundle import write_bundle
from tests.tiny_ptbxl import Row, rows_of, write_ptbxl
from tests.windowed_bundles import windowed_checkpoint
from trainer.ptbxl import CLASSES

CODES = ["NORM", "IMI", "LVH"]
TOP_3 = {"labels": "scp", "top": 3, "min_likelihood": 50.0}
TABLE = {"labels": "table", "table": "acs.csv"}


@pytest.fixture(scope="module")
def root(folder):
    return write_ptbxl(folder / "ptb-xl", rows_of(CODES * 4, [9]))


def bundle_for(path, task, classes):
    return write_bundle(windowed_checkpoint("simple-cnn-1d", task=task, classes=classes), path, "cnn", "0.1").path


def test_statements_are_evaluated_in_both_modes_and_alerts_tuned_where_norm_is_one_of_them(
    command, result_of, root, tmp_path
):
    bundle = bundle_for(tmp_path / "b", TOP_3, ["LVH", "NORM", "IMI"])
    figures = [
        result_of("evaluate", "--data", root, "--bundle", bundle, "--mode", mode) for mode in ("batch", "stream")
    ]
    for measured in figures:
        assert list(measured["per_class"]) == ["LVH", "NORM", "IMI"]
        assert measured["n_records"] == 12
    assert figures[0]["macro_auc"] == pytest.approx(figures[1]["macro_auc"], abs=1e-9)
    tuned = result_of("tune", "--data", root, "--bundle", bundle)
    assert set(tuned["metrics"]["alerts"]["points"]) == {"LVH", "IMI"}
    assert load_bundle(bundle).manifest.operating_points["IMI"].on != 0.5


def test_a_users_table_is_named_again_for_a_bundle_knows_no_more_than_its_name(command, result_of, root, tmp_path):
    bundle = bundle_for(tmp_path / "b", TABLE, ["ACS"])
    table = tmp_path / "acs.csv"
    table.write_text("ecg_id,ACS\n" + "".join(f"{i},{int(i % 3 == 2)}\n" for i in range(1, 13)))
    status, printed = command("evaluate", "--data", root, "--bundle", bundle)
    assert status == 2
    assert "columns of acs.csv; name it with --table" in printed.err
    measured = result_of("evaluate", "--data", root, "--bundle", bundle, "--table", table)
    assert measured["per_class"]["ACS"]["positives"] == 4
    assert "--table acs.csv" in measured["command"]
    tuned = result_of("tune", "--data", root, "--bundle", bundle, "--table", table)
    assert tuned["before"]["calibration"] != tuned["after"]["calibration"]
    assert any("alerts keep their thresholds" in note for note in tuned["notes"])


def test_streams_are_measured_by_the_task_and_the_card_says_which(command, result_of, root, tmp_path):
    bundle = bundle_for(tmp_path / "b", {"min_likelihood": 50.0}, CLASSES)
    uncertain = [Row(101, "{'IMI': 15.0}", 9, 101), Row(102, "{'IMI': 80.0}", 9, 102)]
    more = write_ptbxl(tmp_path / "more", [*rows_of(CODES * 2, [9]), *uncertain])
    figures = result_of("evaluate", "--data", more, "--bundle", bundle, "--bootstrap", 0)
    quick = ("stream-evaluate", "--data", more, "--bundle", bundle, "--quick", "--bootstrap", 0, "--only", "warm")
    streams = result_of(*quick)
    assert streams["n_records"] == figures["n_records"] == 7
    assert streams["warm"][0]["auc"]["per_class"]["MI"] == pytest.approx(figures["per_class"]["MI"]["auc"])
    result_of("card", "--bundle", bundle, "--out", tmp_path / "card")
    card = (tmp_path / "card" / "MODEL_CARD.md").read_text()
    assert "at any likelihood" not in card
    assert "min_likelihood 50" in card


def test_streams_of_a_users_table_are_measured_when_it_is_named(command, result_of, root, tmp_path):
    bundle = bundle_for(tmp_path / "b", TABLE, ["ACS"])
    table = tmp_path / "acs.csv"
    table.write_text("ecg_id,ACS\n" + "".join(f"{i},{int(i % 3 == 2)}\n" for i in range(1, 9)))
    quick = ("stream-evaluate", "--data", root, "--bundle", bundle, "--quick", "--bootstrap", 0, "--only", "warm")
    status, printed = command(*quick)
    assert status == 2
    assert "columns of acs.csv; name it with --table" in printed.err
    measured = result_of(*quick, "--table", table)
    assert (measured["n_records"], measured["classes"]) == (8, ["ACS"])
    assert "--table acs.csv" in measured["command"]


def test_labels_without_a_class_of_the_bundle_are_refused(command, result_of, root, tmp_path):
    bundle = bundle_for(tmp_path / "b", {}, ["NORM", "ACS"])
    status, printed = command("evaluate", "--data", root, "--bundle", bundle)
    assert status == 2
    assert "classes ACS are not among the labels' NORM, MI" in printed.err


def test_a_task_that_the_trainer_does_not_know_is_refused(command, result_of, root, tmp_path):
    bundle = bundle_for(tmp_path / "b", {"labels": "astrology"}, ["NORM"])
    status, printed = command("tune", "--data", root, "--bundle", bundle)
    assert status == 2
    assert "none of the trainer's" in printed.err
