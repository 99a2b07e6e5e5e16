"""`ecg-trainer evaluate` and `ecg-trainer tune`: both modes agree, and part of the folds is enough."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from edge.runtime.bundle import load_bundle, read_manifest
from edge.runtime.select import open_runtime
from tests.real_ptbxl import part_of_ptbxl
from tests.tiny_bundle import tiny_bundle, tiny_checkpoint
from tests.tiny_ptbxl import rows_of, write_ptbxl
from trainer.kinds import record_logits
from trainer.model import EcgMamba, ModelConfig
from trainer.predict import batch_logits, stream_logits
from trainer.ptbxl import CLASSES, open_ptbxl

AGREEMENT = 1e-4
REQUIRED = {"macro_auc", "macro_auprc", "macro_f1", "per_class", "n_records", "mode"}
REAL_RECORDS = 24


def nothing(records):
    pass


def assert_modes_agree(bundle, data, rows):
    batch = batch_logits(bundle, data, rows, nothing)
    stream = stream_logits(open_runtime(bundle), data, rows, nothing)
    assert batch.std(axis=0).min() > 10 * AGREEMENT  # records differ by far more than the modes may
    np.testing.assert_allclose(stream, batch, atol=AGREEMENT)


def test_the_last_hop_of_a_stream_scores_as_the_whole_record_does(root, pristine):
    data = open_ptbxl(root)
    assert_modes_agree(pristine, data, data.rows([8, 9]))


def test_with_votes_too_the_last_hop_scores_as_the_whole_record_does(root, tmp_path):
    data = open_ptbxl(root)
    assert_modes_agree(tiny_bundle(tmp_path / "votes", vote_hops=2), data, data.rows([8, 9]))


def test_the_last_hop_of_a_stream_scores_as_the_whole_record_does_on_real_ecg(ptbxl_root, pristine, tmp_path):
    data = open_ptbxl(part_of_ptbxl(ptbxl_root, tmp_path / "part", {1: REAL_RECORDS}))
    assert_modes_agree(pristine, data, data.rows([1]))


def test_a_window_as_long_as_the_record_is_the_models_own_forward_pass():
    model = tiny_checkpoint().model
    signals = np.random.default_rng(0).normal(size=(3, 1000, 12)).astype(np.float32)
    with torch.inference_mode():
        expected, _ = model(torch.from_numpy(signals))
    np.testing.assert_allclose(record_logits(model, signals, 1000), expected.numpy(), atol=1e-6)


def test_a_shorter_window_is_pooled_over_its_last_hops_as_a_stream_would():
    torch.manual_seed(0)
    model = EcgMamba(ModelConfig(d_model=8, n_layers=1, hop_samples=120, window_samples=360)).eval()
    signals = np.random.default_rng(0).normal(size=(2, 1000, 12)).astype(np.float32)
    state = model.initial_state(2)
    with torch.inference_mode():
        for hop in np.split(signals[:, :960], 8, axis=1):
            streamed, state = model(torch.from_numpy(hop), state)
    np.testing.assert_allclose(record_logits(model, signals, 1000), streamed.numpy(), atol=1e-5)


@pytest.mark.parametrize("mode", ["batch", "stream"])
def test_evaluate_prints_one_json_object(result_of, root, bundle_path, mode):
    result = result_of("evaluate", "--data", root, "--bundle", bundle_path, "--mode", mode, "--bootstrap", 20)
    assert set(result) >= REQUIRED
    assert result["n_records"] == 20  # fold 9, without the record that has no superclass
    assert (result["mode"], result["folds"]) == (mode, [9])
    assert list(result["per_class"]) == list(CLASSES)
    assert 0 <= result["macro_auc"] <= 1
    assert result["intervals"]["replicates"] == 20
    assert result["bundle"]["hash"] == read_manifest(bundle_path).model_hash
    assert result["runtime"] == {"batch": "pytorch", "stream": open_runtime(load_bundle(bundle_path)).name}[mode]


def test_both_modes_give_the_same_figures(result_of, root, bundle_path):
    words = ("evaluate", "--data", root, "--bundle", bundle_path, "--folds", "8-9", "--bootstrap", 0)
    batch, stream = (result_of(*words, "--mode", mode) for mode in ("batch", "stream"))
    assert batch["n_records"] == stream["n_records"] == 40
    assert batch["macro_auc"] == pytest.approx(stream["macro_auc"], abs=0.002)
    assert batch["intervals"] is None


def test_evaluate_says_which_folds_the_model_has_seen(result_of, root, bundle_path):
    words = ("evaluate", "--data", root, "--bundle", bundle_path, "--bootstrap", 0)
    assert result_of(*words, "--folds", "9")["notes"] == []
    assert result_of(*words, "--folds", "8,9")["notes"] == ["fold 8 was trained on: these figures flatter the model"]


def test_a_class_that_a_fold_lacks_is_null_in_the_result(result_of, tmp_path, bundle_path):
    root = write_ptbxl(tmp_path / "ptb-xl", rows_of(["NORM", "IMI", "NDT", "LAFB"] * 2, [9]))
    result = result_of("evaluate", "--data", root, "--bundle", bundle_path, "--bootstrap", 5)
    assert result["per_class"]["HYP"]["auc"] is None
    assert result["macro_auc"] is not None
    assert result["notes"] == ["HYP: no record has it; left out of the macro figures"]


def test_without_json_a_table_names_every_class(command, root, bundle_path):
    status, printed = command("evaluate", "--data", root, "--bundle", bundle_path, "--bootstrap", 20)
    assert status == 0
    assert all(name in printed.out for name in (*CLASSES, "macro", "±"))
    assert "…" not in printed.out  # nothing is cut off at 80 columns


def test_plots_are_png_files(result_of, root, bundle_path, tmp_path):
    plots = tmp_path / "new" / "plots"
    result = result_of("evaluate", "--data", root, "--bundle", bundle_path, "--bootstrap", 0, "--plots", plots)
    written = {path.name: path.read_bytes() for path in plots.iterdir()}
    assert set(written) == {"roc.png", "precision_recall.png", "calibration.png", "confusion.png"}
    assert all(content.startswith(b"\x89PNG") for content in written.values())
    assert sorted(result["plots"]) == sorted(str(plots / name) for name in written)


@pytest.mark.parametrize("name", ["evaluate", "tune"])
def test_folds_that_are_not_there_are_one_line_that_says_which_are(command, root, bundle_path, name):
    status, printed = command(name, "--data", root, "--bundle", bundle_path, "--folds", "1-3")
    assert status == 2
    assert printed.out == ""
    assert printed.err.splitlines()[-1].endswith("this copy of PTB-XL holds folds 8, 9")


def test_tune_writes_what_evaluate_then_reports(result_of, root, bundle_path):
    before = read_manifest(bundle_path)
    tuned = result_of("tune", "--data", root, "--bundle", bundle_path)
    after = load_bundle(bundle_path).manifest
    assert after.calibration != before.calibration
    assert after.operating_points != before.operating_points
    assert after.files == before.files
    assert tuned["after"]["calibration"]["scale"] == after.calibration.scale
    assert after.metrics["folds"] == [9]
    assert after.metrics["command"] == "ecg-trainer tune --data PTBXL_ROOT --bundle tiny --folds 9 --budget 1"
    measured = result_of("evaluate", "--data", root, "--bundle", bundle_path, "--folds", "9")
    assert measured["macro_f1"] == pytest.approx(after.metrics["macro_f1"])
    assert measured["intervals"]["macro"]["auc"] == pytest.approx(after.metrics["intervals"]["macro"]["auc"])
    assert measured["notes"] == ["fold 9 was used to fit calibration and thresholds: these figures flatter the model"]


def test_tuning_raises_f1_and_leaves_the_ranking_alone(result_of, root, bundle_path):
    words = ("evaluate", "--data", root, "--bundle", bundle_path, "--bootstrap", 0)
    before = result_of(*words)
    result_of("tune", "--data", root, "--bundle", bundle_path)
    after = result_of(*words)
    assert after["macro_f1"] > before["macro_f1"]
    assert after["macro_auc"] == pytest.approx(before["macro_auc"])


def test_tune_shows_what_changed(command, root, bundle_path):
    status, printed = command("tune", "--data", root, "--bundle", bundle_path)
    assert status == 0
    assert "before and after tuning" in printed.out
    assert "0.500" in printed.out
    assert f"wrote {bundle_path / 'manifest.json'}" in printed.err


def test_nothing_is_tuned_on_the_test_fold(command, root, bundle_path):
    before = (bundle_path / "manifest.json").read_bytes()
    status, printed = command("tune", "--data", root, "--bundle", bundle_path, "--folds", "9-10")
    assert status == 2
    assert "fold 10 is the test fold" in printed.err
    assert (bundle_path / "manifest.json").read_bytes() == before
