"""Models that know one label a record: ranked by their softmax's probabilities, whatever all outputs share."""

from __future__ import annotations

import json

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from scipy.special import expit, softmax
from sklearn.metrics import average_precision_score, roc_auc_score

from edge.errors import ConfigError
from edge.runtime.base import log_odds
from edge.runtime.manifest import SignalSpec
from tests.tiny_ptbxl import rows_of, write_ptbxl
from trainer.checkpoint import load_checkpoint
from trainer.cli import main
from trainer.compare import exporting
from trainer.data import Split
from trainer.kinds import record_logits
from trainer.one_label import each_by_itself, only_single_label
from trainer.preset import TrainingPreset, load_preset
from trainer.ptbxl import open_ptbxl
from trainer.run_folder import BEST_NAME
from trainer.train import Trainer, macro_auc, macro_average_precision

SIGNAL = SignalSpec(100, (0.05, 40.0), [(1.0, 0.0, 0.0, 1.0, 0.0, 0.0)], mean_mv=[0.0] * 12, std_mv=[0.2] * 12)
ONE_LABEL = TrainingPreset(loss="cross_entropy", epochs=1, batch_size=8)
CODES = ["NORM", "IMI", "NDT", "LAFB", "LVH"]

pytestmark = pytest.mark.usefixtures("one_thread")


def shifted_records(records=200, seed=0):
    """Outputs that tell classes apart within a record, under a shift of its own, and labels in one column each."""
    rng = np.random.default_rng(seed)
    truth = rng.integers(0, 5, records)
    labels = np.eye(5, dtype=np.float32)[truth]
    logits = 2 * labels + rng.normal(size=(records, 5)) + rng.normal(0, 20, (records, 1))
    return truth, labels, logits.astype(np.float32)


@given(arrays.arrays(np.float32, (3, 4), elements=st.floats(-30, 30, width=32)), st.floats(-50, 50, width=32))
def test_each_output_by_itself_is_the_softmax_whatever_all_of_a_record_share(logits, shift):
    wide = logits.astype(np.float64)
    np.testing.assert_allclose(expit(log_odds(logits)), softmax(wide, axis=1), rtol=1e-9)
    np.testing.assert_allclose(log_odds(logits + np.float32(shift)), log_odds(logits), atol=1e-3)


def test_figures_are_those_of_scikit_learn_for_probabilities_of_one_class_against_the_rest():
    truth, labels, logits = shifted_records()
    ranked, probabilities = each_by_itself(logits, ONE_LABEL), softmax(logits.astype(np.float64), axis=1)
    expected = roc_auc_score(truth, probabilities, multi_class="ovr", average="macro")
    assert macro_auc(labels, ranked) == pytest.approx(expected)
    assert macro_auc(labels, logits) < expected - 0.1  # as they are, the shift of each record decides
    precision = average_precision_score(labels, probabilities, average="macro")
    assert macro_average_precision(labels, ranked) == pytest.approx(precision)
    assert each_by_itself(logits, TrainingPreset()) is logits


def test_epochs_are_chosen_by_the_ranking_of_probabilities(tmp_path):
    truth, labels, _ = shifted_records(16)
    signals = np.random.default_rng(1).standard_normal((16, 1000, 12), dtype=np.float32)
    split = Split(signals, labels)
    preset = msgspec.structs.replace(load_preset("tiny"), training=ONE_LABEL)
    trainer = Trainer(preset, SIGNAL, split, split, tmp_path, 0, {})
    best = trainer.run()
    logits = record_logits(load_checkpoint(tmp_path / BEST_NAME).model, signals, 1000)
    probabilities = softmax(logits.astype(np.float64), axis=1)
    assert best.macro_auc == pytest.approx(roc_auc_score(truth, probabilities, multi_class="ovr", labels=range(5)))
    np.testing.assert_allclose(expit(trainer.kept_logits(signals)), probabilities, rtol=1e-4)


def test_one_class_alone_is_no_choice():
    alone = Split(np.zeros((2, 10, 12), np.float32), np.ones((2, 1), np.float32), classes=("ACS",))
    with pytest.raises(ConfigError, match="ACS is the only one"):
        only_single_label(alone, ONE_LABEL)
    assert only_single_label(alone, TrainingPreset()) is alone


def test_the_report_of_a_comparison_is_of_the_softmax_and_says_so(tmp_path, monkeypatch, capsys):
    from export.bundle import write_bundle

    monkeypatch.setenv("ECG_EDGE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr("trainer.compare.cost.SECONDS_EACH", 0.01)
    monkeypatch.setattr(
        exporting, "_export", lambda path, out, name: write_bundle(load_checkpoint(path), out, name, "1")
    )
    root = write_ptbxl(tmp_path / "ptb-xl", rows_of(CODES * 6, [1, 9]))
    model = "[model]\nd_model = 8\nn_layers = 1\nd_state = 8\n"
    (tmp_path / "single.toml").write_text(f'{model}[training]\nloss = "cross_entropy"\nepochs = 1\nbatch_size = 8\n')
    asked = ["compare", "--data", root, "--out", tmp_path / "out", "--folds", "1", "--bootstrap", "0", "--json"]
    assert main([*map(str, [*asked, "--only", tmp_path / "single.toml"])]) == 0
    (row,) = json.loads(capsys.readouterr().out)["rows"]
    history = json.loads((tmp_path / "out" / "single" / "metrics.jsonl").read_text().splitlines()[-1])
    assert row["macro_auc"] == pytest.approx(history["macro_auc"], abs=1e-6)
    report = json.loads((tmp_path / "out" / "single" / "report" / "report.json").read_text())
    assert any("softmax" in note for note in report["notes"])
    assert report["calibration"]["softmax"]
    data = open_ptbxl(root)
    assert report["n_records"] == len(data.rows([9]))
