"""Cross-validation and soft labels: nobody is on both sides, every record is answered once, and students learn it."""

from __future__ import annotations

import dataclasses
import json

import msgspec
import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from edge.errors import RecordError
from tests.scored import records_that_lean
from tests.tiny_ptbxl import rows_of, write_ptbxl
from trainer import cross_validate
from trainer.cli import main
from trainer.cross_validate import Part, PartResult, joined, parts_of, run_part
from trainer.data import Split
from trainer.preset import TrainingPreset, load_preset
from trainer.ptbxl import CLASSES, open_ptbxl, read_table
from trainer.targets import SOFT_LABELS_NAME, SoftLabels, load_soft_labels, with_targets
from trainer.train import Trainer

CODES = ["NORM", "IMI", "NDT", "LAFB", "LVH"]


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    return write_ptbxl(tmp_path_factory.mktemp("ptbxl") / "ptb-xl", rows_of(CODES * 2, [1, 2, 3, 9]))


@pytest.fixture
def cached(root, monkeypatch):
    monkeypatch.setenv("ECG_EDGE_CACHE", str(root.parent / "cache"))
    return open_ptbxl(root, root.parent / "cache")


def soft(ids, value=0.25):
    return SoftLabels(np.array(ids), np.full((len(ids), len(CLASSES)), value, dtype=np.float32))


@pytest.mark.parametrize("choose_epoch", [False, True])
def test_every_fold_is_held_out_once_and_never_seen_by_the_training_that_is_asked_about_it(choose_epoch):
    parts = parts_of(range(1, 9), 4, choose_epoch)
    assert sorted(fold for part in parts for fold in part.held_out) == list(range(1, 9))
    for part in parts:
        assert not set(part.train) & {*part.held_out, *part.tune}
        assert set(part.train) | {*part.held_out, *part.tune} == set(range(1, 9))
        assert bool(set(part.tune) & set(part.held_out)) != choose_epoch


def test_no_patient_of_ptb_xl_is_in_two_parts(ptbxl_root):
    table = read_table(ptbxl_root)
    parts = parts_of(range(1, 10), 3, False)
    patients = [set(table["patient_id"][table["strat_fold"].isin(part.held_out)]) for part in parts]
    assert all(patients)
    assert not any(patients[i] & patients[j] for i in range(3) for j in range(i))


@pytest.mark.parametrize("parts", [1, 9])
def test_too_few_folds_for_the_parts_are_refused(parts):
    with pytest.raises(RecordError, match="cannot be cross-validated"):
        parts_of(range(1, 9), parts, False)


def test_the_command_answers_for_every_record_and_a_student_learns_from_it(root, cached, tmp_path, capsys, monkeypatch):
    out = tmp_path / "teacher"
    asked = ["cross-validate", "--data", str(root), "--preset", "tiny", "--folds", "1-3", "--parts", "3",
             "--epochs", "1", "--out", str(out), "--json"]  # fmt: skip
    assert main(asked) == 0
    figures = json.loads(capsys.readouterr().out)
    assert [part["held_out"] for part in figures["parts"]] == [[1], [2], [3]]
    assert json.loads((out / "cross_validation.json").read_text()) == figures
    for name in ("macro_auc", "macro_auprc", "accuracy"):
        each = [part[name] for part in figures["parts"]]
        assert (figures[f"{name}_mean"], figures[f"{name}_sd"]) == pytest.approx((np.mean(each), np.std(each, ddof=1)))
    taught = load_soft_labels(out / SOFT_LABELS_NAME)
    rows = cached.rows([1, 2, 3])
    assert taught.ecg_ids.tolist() == cached.ecg_ids[rows].tolist()

    before = (out / SOFT_LABELS_NAME).read_bytes()
    with monkeypatch.context() as finished:
        finished.setattr(Trainer, "_epoch", lambda *_: pytest.fail("trained again"))
        assert main(asked) == 0
    assert load_soft_labels(out / SOFT_LABELS_NAME).probabilities.tolist() == taught.probabilities.tolist()
    assert len(before) == len((out / SOFT_LABELS_NAME).read_bytes())

    student = tmp_path / "student.toml"
    student.write_text(
        "[model]\nd_model = 8\nn_layers = 1\n[training]\nepochs = 1\nsoft_label_share = 0.5\nstatements_weight = 0.5\n"
    )
    learn = ["train", "--data", str(root), "--preset", str(student), "--folds", "1-3", "--out", str(tmp_path / "run")]
    assert main([*learn, "--soft-labels", str(out / SOFT_LABELS_NAME)]) == 0
    assert main([*learn[:-1], str(tmp_path / "other")]) == 2
    assert "--soft-labels" in capsys.readouterr().err


def test_targets_lie_between_label_and_teachers_and_statements_follow(cached):
    rows = cached.rows([1])
    split = Split(np.zeros((len(rows), 1, 12), np.float32), cached.labels[rows])
    recipe = TrainingPreset(soft_label_share=0.5, statements_weight=1.0)
    teachers = [soft(cached.ecg_ids, 0.2), soft(cached.ecg_ids, 0.6)]
    targets = with_targets(split, cached, rows, recipe, teachers, seed=0).targets
    assert targets is not None
    np.testing.assert_allclose(targets[:, :5], 0.5 * split.labels + 0.2, rtol=1e-6)
    np.testing.assert_array_equal(targets[:, 5:], cached.statements[rows])


def test_soft_labels_survive_their_file_and_anything_else_is_refused(tmp_path):
    path = tmp_path / SOFT_LABELS_NAME
    soft([4, 7]).save(path)
    assert load_soft_labels(path).ecg_ids.tolist() == [4, 7]
    soft([4, 7], 1.5).save(path)
    with pytest.raises(RecordError, match="probability per record"):
        load_soft_labels(path)
    for content in (b"", b"PK\x03\x04 torn", b"\x80\x04N."):
        path.write_bytes(content)
        with pytest.raises(RecordError, match="holds no soft labels"):
            load_soft_labels(path)


def test_a_record_without_soft_labels_is_named():
    with pytest.raises(RecordError, match="lack 1 records, the first is 5"):
        soft([4]).of(np.array([4, 5]))


def test_a_recipe_without_soft_labels_takes_none(cached):
    rows = cached.rows([1])
    split = Split(np.zeros((len(rows), 1, 12), np.float32), cached.labels[rows])
    with pytest.raises(RecordError, match="soft_label_share"):
        with_targets(split, cached, rows, msgspec.structs.replace(TrainingPreset()), [soft([1])], seed=0)


def held_out_results(records=2000):
    """What two parts say of the records they held out, whose second class leans on the first."""
    logits, labels = records_that_lean(records)
    ids = np.random.default_rng(0).permutation(records)
    halves = [slice(None, records // 2), slice(records // 2, None)]
    return [PartResult(Part([], [], [k]), {}, ids[at], logits[at], labels[at]) for k, at in enumerate(halves)]


def test_soft_labels_are_calibrated_in_the_order_of_the_records():
    results = held_out_results()
    soft_labels = joined(results, ("A", "B"))
    np.testing.assert_array_equal(soft_labels.ecg_ids, np.arange(2000))
    labels, logits = (
        np.concatenate([getattr(result, name) for result in results])[
            np.argsort(np.concatenate([result.ecg_ids for result in results]))
        ]
        for name in ("labels", "logits")
    )
    raw, said = (roc_auc_score(labels[:, 1], of[:, 1]) for of in (logits, soft_labels.probabilities))
    assert said > raw + 0.02


def test_a_part_s_own_labels_say_nothing_of_its_soft_labels():
    results = held_out_results()
    turned = dataclasses.replace(results[0], labels=1 - results[0].labels)
    before, after = (joined([first, results[1]], ("A", "B")) for first in (results[0], turned))
    np.testing.assert_array_equal(before.of(results[0].ecg_ids), after.of(results[0].ecg_ids))
    assert (before.of(results[1].ecg_ids) != after.of(results[1].ecg_ids)).any()


def test_teachers_that_knew_the_records_to_tune_on_are_refused(root, cached, tmp_path, capsys):
    soft(cached.ecg_ids).save(tmp_path / "all.safetensors")
    (tmp_path / "student.toml").write_text("base = 'tiny'\n[training]\nepochs = 1\nsoft_label_share = 0.5\n")
    student, out = tmp_path / "student.toml", tmp_path / "run"
    train = ["train", "--data", root, "--preset", student, "--folds", "1-3", "--out", out]
    assert main([*map(str, train), "--soft-labels", str(tmp_path / "all.safetensors")]) == 2
    assert "cover 10 of the records to tune on" in capsys.readouterr().err


def test_of_one_label_a_record_only_such_records_are_measured_but_all_are_answered(tmp_path, monkeypatch):
    rows = rows_of([*CODES, "IMI': 100.0, 'NDT"], [1, 2, 3])  # the last has two labels
    root = write_ptbxl(tmp_path / "ptb-xl", rows)
    data = open_ptbxl(root, tmp_path / "cache")
    preset = load_preset("tiny")
    preset = msgspec.structs.replace(
        preset, training=msgspec.structs.replace(preset.training, epochs=1, loss="cross_entropy", batch_size=4)
    )
    measured = []
    monkeypatch.setattr(cross_validate, "macro_auc", lambda labels, logits: measured.append(labels) or 0.5)

    result = run_part(preset, data, Part([1], [2], [3]), tmp_path / "part", 0, {}, None, lambda epoch: None)

    assert measured[-1].sum(1).tolist() == [1] * 5
    assert len(result.logits) == 6


def test_several_processes_are_refused_before_they_write_over_each_other(root, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("WORLD_SIZE", "2")
    for command in (["cross-validate", "--preset", "tiny"], ["study", "labels"]):
        assert main([*command, "--data", str(root), "--out", str(tmp_path / "out")]) == 2
        assert "works in one process" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
