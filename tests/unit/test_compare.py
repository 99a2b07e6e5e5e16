"""`ecg-trainer compare`: trained where it was left, a report for each, one table of all that stands."""

from __future__ import annotations

import contextlib
import io
import json

import msgspec
import pytest

from edge.runtime.bundle import load_bundle
from export.bundle import write_bundle
from tests.real_ptbxl import part_of_ptbxl
from trainer.checkpoint import load_checkpoint
from trainer.cli import main
from trainer.compare import exporting, runs
from trainer.compare.table import Comparison, markdown
from trainer.compare_command import RESULT_NAME, TABLE_NAME
from trainer.history import read_history
from trainer.ptbxl import CACHE_VARIABLE

RECORDS = 24
SMALL = 'epochs = 3\nbatch_size = 8\ncrop_s = 5.0\naverage_decay = 0.0\nkeep = "last"\n'
MAMBA = "[model]\nd_model = 8\nn_layers = 1\nd_state = 8\nstride = 4\n"
PRESETS = {
    "stream": f"{MAMBA}[training]\n{SMALL}",
    "window": 'about = "Looks at windows."\n[[claims]]\nfigure = "auc"\nof = "NORM"\nmore_than = -1.0\n'
    '[[claims]]\nfigure = "auprc"\nat_least = 1.1\nsource = "nobody"\n'
    f'[model]\nkind = "simple-cnn-1d"\nchannels = [4, 4, 8]\n[training]\n{SMALL}',
    "single": f'[[claims]]\nfigure = "accuracy"\nmore_than = -1.0\n{MAMBA}[training]\nloss = "cross_entropy"\n{SMALL}',
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("compare")


@pytest.fixture(scope="module")
def root(ptbxl_root, folder):
    return part_of_ptbxl(ptbxl_root, folder / "ptb-xl", {1: RECORDS, 9: RECORDS})


@pytest.fixture(scope="module", autouse=True)
def surroundings(folder):
    """A cache of its own, short timing, and the exporter in this process, which saves five seconds a model."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(CACHE_VARIABLE, str(folder / "cache"))
        patch.setattr("trainer.compare.cost.SECONDS_EACH", 0.01)
        patch.setattr(exporting, "_export", lambda path, out, name: write_bundle(load_checkpoint(path), out, name, "1"))
        yield


def called(*words):
    """Run the command; return its status, what it printed and what it said."""
    out, said = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(said):
        status = main([*map(str, words)])
    return status, out.getvalue(), said.getvalue()


@pytest.fixture(scope="module")
def words(folder, root):
    """What compares the three presets."""
    for name, text in PRESETS.items():
        (folder / f"{name}.toml").write_text(text)
    only = [folder / f"{name}.toml" for name in PRESETS]
    return ["compare", "--data", root, "--out", folder / "out", "--folds", "1", "--bootstrap", "20", "--only", *only]


@pytest.fixture(scope="module")
def interrupted(words, folder):
    """Killed after the first epoch of the second model."""

    def kill(epoch):
        if (folder / "out" / "window").exists():
            raise KeyboardInterrupt

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(runs, "report", kill)
        status, printed, _ = called(*words)
    assert (status, printed) == (130, "")
    return {name: len(read_history(folder / "out" / name / "metrics.jsonl")) for name in PRESETS}


@pytest.fixture(scope="module")
def compared(words, interrupted, folder):
    """Gone on to the end: what `called` returns, and both files as they then stand."""
    result = called(*words)
    return *result, (folder / "out" / TABLE_NAME).read_text(), (folder / "out" / RESULT_NAME).read_bytes()


@pytest.fixture(scope="module")
def table(compared):
    return msgspec.json.decode(compared[-1], type=Comparison)


def test_an_interrupted_comparison_goes_on_at_the_last_finished_epoch(interrupted, compared, folder):
    assert interrupted == {"stream": 3, "window": 1, "single": 0}
    status, _, said, *_ = compared
    assert status == 0
    assert "stream: 3 epochs stand" in said
    assert "window: 1 of 3 epochs stand, going on" in said
    assert "single: 3 epochs to train" in said
    epochs = [json.loads(line)["epoch"] for line in (folder / "out/window/metrics.jsonl").read_text().splitlines()]
    assert epochs == [1, 2, 3]


def test_a_second_run_trains_nothing_and_reports_nothing_anew(compared, words, folder, table, monkeypatch):
    monkeypatch.setattr(runs, "prepare", lambda *_: pytest.fail("something was trained again"))
    reports = {path: path.stat().st_mtime_ns for path in folder.glob("out/*/report/*")}
    status, printed, _ = called(*words, "--json")
    assert status == 0
    assert {path: path.stat().st_mtime_ns for path in folder.glob("out/*/report/*")} == reports
    again = msgspec.json.decode(printed, type=Comparison)

    def untimed(comparison):
        return [msgspec.structs.replace(row, ms_per_hop=0.0, streams_per_core=0.0) for row in comparison.rows]

    assert untimed(again) == untimed(table)


def test_rows_stand_by_task_with_all_that_was_asked_for(table):
    assert [(row.preset, row.task) for row in table.rows if "one label" in row.task] == [
        ("single", "superclass, one label a record")
    ]
    by_name = {row.preset: row for row in table.rows}
    assert set(by_name) == set(PRESETS)
    assert {name: row.kind for name, row in by_name.items()} == {
        "stream": "recurrent", "window": "windowed", "single": "recurrent",
    }  # fmt: skip
    assert by_name["single"].n_records < by_name["stream"].n_records == by_name["window"].n_records <= RECORDS
    assert by_name["stream"].accuracy is None
    assert 0 <= by_name["single"].accuracy <= 1
    for row in table.rows:
        assert (row.epochs, row.epochs_planned, row.finished) == (3, 3, True)
        assert row.training_s > 0
        assert row.macro_auc_interval[0] <= row.macro_auc <= row.macro_auc_interval[1]
        assert row.streams_per_core == pytest.approx(1000 * row.hop_s / row.ms_per_hop)
        assert row.parameters > 0 < row.flops
        assert None not in (row.macro_auprc, row.macro_f1_at_half, row.macro_f1_tuned)
    assert by_name["window"].runtime == "onnxruntime"


def test_a_claim_is_reached_or_missed_and_says_by_what(table):
    held = {row.preset: [(claim.claim, claim.reached) for claim in row.claims] for row in table.rows}
    assert held == {
        "stream": [],
        "window": [("NORM AUC > -1", True), ("macro average precision ≥ 1.1", False)],
        "single": [("accuracy > -1", True)],
    }


def test_the_table_is_written_printed_and_read_back(compared, table, folder):
    _, printed, _, text, _ = compared
    assert text.strip() == printed.strip()
    assert markdown(table) == text
    assert msgspec.json.decode(msgspec.json.encode(table), type=Comparison) == table
    heads = [line for line in text.splitlines() if line.startswith("| preset")]
    assert len(heads) == 2
    for column in ("parameters", "MFLOPs", "macro-AUC", "F1 tuned", "ms per hop", "streams per core", "should reach"):
        assert column in heads[0]
    assert "NORM AUC > -1: yes" in text
    assert "macro average precision ≥ 1.1: no" in text
    assert "lstm" in table.missing
    assert "hubert-ecg-base" not in table.missing
    assert str(folder) not in text


@pytest.mark.parametrize("name", PRESETS)
def test_every_model_has_a_report_with_plots_and_a_card(compared, folder, name):
    report = folder / "out" / name / "report"
    figures = json.loads((report / "report.json").read_bytes())
    assert {"macro_auc", "per_class", "intervals", "groups", "crossfit", "notes"} <= set(figures)
    assert {row["group"] for row in figures["groups"]} >= {"male", "female"}
    card = (report / "MODEL_CARD.md").read_text()
    for plot in ("roc", "precision_recall", "calibration", "confusion"):
        assert (report / f"{plot}.png").read_bytes().startswith(b"\x89PNG")
        assert f"({plot}.png)" in card
    assert "Research use only" in card
    assert "3 of 3 epochs in" in card
    assert f"--preset {name}.toml" in card
    assert "Creative Commons" in card
    assert "by sex and age" in card
    assert str(folder) not in card
    bundle = load_bundle(folder / "out" / name / "bundle")
    assert figures["bundle"]["hash"] == bundle.manifest.model_hash


def test_a_folder_that_train_made_is_taken_as_it_is_and_another_recipe_is_named(root, words, folder, tmp_path):
    train = ["train", "--data", root, "--preset", folder / "stream.toml", "--folds", "1", "--epochs", "1"]
    assert called(*train, "--out", tmp_path / "stream")[0] == 0
    common = ["compare", "--data", root, "--out", tmp_path, "--folds", "1", "--bootstrap", "0", "--json"]
    only = ["--only", folder / "stream.toml"]
    status, printed, _ = called(*common, *only, "--epochs", "1")
    (row,) = json.loads(printed)["rows"]
    assert (status, row["epochs"], row["notes"], row["macro_auc_interval"]) == (0, 1, [], None)
    status, printed, said = called(*common, *only)
    (row,) = json.loads(printed)["rows"]
    assert row["notes"] == ["trained by another recipe than the preset's: training.epochs 1, not 3"]
    assert "1 epochs stand; trained by another recipe" in said
    _, printed, _ = called(*common, *only, "--epochs", "1", "--tune-folds", "1", "--no-train")
    (row,) = json.loads(printed)["rows"]
    assert row["notes"] == [
        "its weights chosen on folds 9, not 1", "trained on fold 1, which it is measured on: its figures mean nothing",
    ]  # fmt: skip
    _, printed, _ = called(*common, *only, "--epochs", "1", "--folds", "1-8", "--seed", "3", "--no-train")
    (row,) = json.loads(printed)["rows"]
    assert row["notes"] == ["trained on folds 1, not 1-8", "trained with seed 0, not 3"]


def test_without_training_what_stands_is_reported_and_what_does_not_is_listed(root, folder, compared, tmp_path):
    (tmp_path / "window").symlink_to(folder / "out" / "window")
    status, printed, _ = called(
        "compare", "--data", root, "--out", tmp_path, "--folds", "1", "--bootstrap", "20", "--no-train", "--json"
    )
    result = json.loads(printed)
    assert status == 0
    assert [row["preset"] for row in result["rows"]] == ["window"]
    assert result["missing"]["s4-ecg"] == "not trained yet"


def test_what_cannot_be_trained_is_named_and_does_not_stop_the_others(root, tmp_path):
    (tmp_path / "pupil.toml").write_text(f"{MAMBA}[training]\nsoft_label_share = 0.5\n{SMALL}")
    status, printed, said = called(
        "compare", "--data", root, "--out", tmp_path, "--folds", "1", "--only", tmp_path / "pupil.toml", "--json"
    )
    assert status == 1
    assert "soft_label_share" in json.loads(printed)["missing"]["pupil"]
    assert "pupil: --soft-labels belongs to" in said


def test_presets_that_would_share_a_folder_are_refused_in_one_line(root, folder, words, tmp_path):
    (tmp_path / "stream.toml").write_text(PRESETS["stream"])
    status, _, said = called(*words, tmp_path / "stream.toml")
    assert status == 2
    assert "same name" in said
