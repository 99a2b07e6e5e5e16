"""Tasks: which labels the records have, which records count, and what a table of the user's own may hold."""

from __future__ import annotations

import json

import numpy as np
import pytest

from edge.errors import RecordError
from tests.tiny_ptbxl import Row, rows_of, write_ptbxl
from trainer.checkpoint import load_checkpoint
from trainer.cli import main
from trainer.ptbxl import CLASSES, open_ptbxl, read_table, with_labels
from trainer.tasks import OUTPUTS, LabelTableError, TaskPreset, open_task, read_table_labels, relabelled

CODES = [
    "{'NORM': 100.0, 'SR': 0.0}",
    "{'IMI': 80.0, 'LVH': 15.0, 'SR': 0.0}",
    "{'IMI': 100.0, 'LAFB': 50.0}",
    "{'LAFB': 35.0, 'NDT': 0.0}",
    "{'ABQRS': 0.0}",
]


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tasks")
    rows = [Row(i, codes, fold=1, patient=i) for i, codes in enumerate(CODES, 1)]
    rows.append(Row(6, "{'NDT': 100.0}", fold=9, patient=6))
    return write_ptbxl(folder / "ptb-xl", rows)


@pytest.fixture(scope="module")
def opened(root):
    return lambda **task: open_task(root, TaskPreset(**task), root.parent / "cache")


@pytest.fixture
def table(tmp_path):
    def write(text, name="labels.csv"):
        (tmp_path / name).write_text(text)
        return tmp_path / name

    return write


def labels_by_class(data):
    return {name: data.labels[:, k].tolist() for k, name in enumerate(data.classes)}


def test_the_default_is_what_ptbxl_is_opened_with(root, opened):
    plain, default = open_ptbxl(root, root.parent / "cache"), opened()
    np.testing.assert_array_equal(plain.labels, default.labels)
    assert default.classes == CLASSES
    assert default.labelled.tolist() == [True, True, True, True, False, True]


def test_superclasses_may_ask_for_a_likelihood(opened):
    data = opened(min_likelihood=50)
    assert labels_by_class(data)["HYP"] == [0] * 6
    assert labels_by_class(data)["CD"] == [0, 0, 1, 0, 0, 0]
    assert data.labelled.tolist() == [True, True, True, False, False, True]


def test_the_most_frequent_statements_are_counted_in_the_training_folds_at_the_likelihood(opened):
    assert opened(labels="scp", top=2).classes == ("IMI", "LAFB")
    data = opened(labels="scp", top=3, min_likelihood=50)
    assert data.classes == ("IMI", "NORM", "LAFB")  # NDT is in fold 9 alone
    assert labels_by_class(data)["IMI"] == [0, 1, 1, 0, 0, 0]
    assert labels_by_class(data)["LAFB"] == [0, 0, 1, 0, 0, 0]
    assert data.labelled.tolist() == [True, True, True, False, False, False]


def test_records_without_a_class_are_negatives_where_that_is_asked_for(opened):
    assert opened(labels="scp", top=2, unlabelled="negative").labelled.all()


def test_more_statements_than_were_made_are_refused(opened):
    with pytest.raises(RecordError, match="3 diagnostic statements at a likelihood of 50 %"):
        opened(labels="scp", top=4, min_likelihood=50)


def test_all_statements_are_classes_diagnostic_or_not(opened):
    data = opened(labels="statements")
    assert data.classes == ("NORM", "IMI", "NDT", "LAFB", "LVH", "SR", "ABQRS")
    np.testing.assert_array_equal(data.labels, data.statements)
    assert data.labelled.all()


def test_subclasses_and_rhythm_are_views_of_the_same_statements(opened):
    assert opened(labels="subclass").classes == ("IMI", "LAFB-LPFB", "LVH", "NORM", "STTC")
    rhythm = opened(labels="rhythm")
    assert labels_by_class(rhythm) == {"SR": [1, 1, 0, 0, 0, 0]}
    assert rhythm.labelled.tolist() == [True, True, False, False, False, False]


def test_ptbxl_has_as_many_classes_of_each_task_as_stated(ptbxl_root):
    table = read_table(ptbxl_root)
    data = with_labels(ptbxl_root, table, np.empty((len(table), 0, 12), np.int16))
    opened = {labels: relabelled(data, ptbxl_root, TaskPreset(labels=labels)) for labels in OUTPUTS}
    assert {labels: len(data.classes) for labels, data in opened.items()} == OUTPUTS
    assert opened["subclass"].labels.any(0).all()
    scp = relabelled(data, ptbxl_root, TaskPreset(labels="scp", min_likelihood=50))
    assert scp.classes[0] == "NORM"
    assert len(scp.classes) == TaskPreset(labels="scp").outputs == 5


def test_a_table_says_which_records_there_are_and_what_they_have(opened, table):
    path = table("ecg_id,ACS,other\n2,1,0\n3,0,0\n6,1,1\n777,1,0\n")
    data = opened(labels="table", table=str(path))
    assert data.classes == ("ACS", "other")
    assert labels_by_class(data) == {"ACS": [0, 1, 0, 0, 0, 1], "other": [0, 0, 0, 0, 0, 1]}
    assert data.labelled.tolist() == [False, True, True, False, False, True]
    assert TaskPreset(labels="table", table=str(path)).outputs == 2


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("", "first line must be ecg_id"),
        ("record,ACS\n1,0\n", "first line must be ecg_id"),
        ("ecg_id\n1\n", "first line must be ecg_id"),
        ("ecg_id,ACS,ACS\n1,0,0\n", "same name"),
        ("ecg_id,ACS\n", "no records"),
        ("ecg_id,ACS\n1,0\n1,1\n", "twice"),
        ("ecg_id,ACS\n1,0\n2,maybe\n", "line 3: ACS is 'maybe'"),
        ("ecg_id,ACS\n1,0\n2,\n", "line 3: ACS is ''"),
        ("ecg_id,ACS\nx1,0\n", "line 2: 'x1'"),
        ("ecg_id,ACS\n²,0\n", "line 2: '²'"),
        ("ecg_id,ACS\n12345678901234567890,0\n", "line 2: '12345678901234567890'"),
        ("ecg_id,ACS\n1,0,1\n", "line 2 has 3 cells"),
    ],
)
def test_a_table_with_a_fault_is_refused_by_its_line(table, text, named):
    with pytest.raises(LabelTableError, match=named):
        read_table_labels(table(text))


def test_a_table_of_other_records_or_none_is_refused(opened, table, tmp_path):
    with pytest.raises(LabelTableError, match="none of its 1 records"):
        opened(labels="table", table=str(table("ecg_id,ACS\n777,1\n")))
    with pytest.raises(LabelTableError, match="cannot be read"):
        read_table_labels(tmp_path / "absent.csv")


def test_a_byte_order_mark_and_blank_lines_are_read_over(table):
    ecg_ids, classes, labels = read_table_labels(table("\ufeffecg_id, ACS\n4,1\n\n5,0\n"))
    assert (ecg_ids.tolist(), classes, labels.tolist()) == ([4, 5], ("ACS",), [[1.0], [0.0]])


def test_two_stages_train_one_task_after_another_with_a_new_head(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("ECG_EDGE_CACHE", str(tmp_path / "cache"))
    root = str(write_ptbxl(tmp_path / "ptb-xl", rows_of(["NORM", "IMI", "LVH"] * 4, [1, 9])))
    model = '[model]\nkind = "resnet1d-wang"\nchannels = 8\nd_hidden = 8\nlayout = "print_3x4"\n'
    recipe = "[training]\nepochs = 1\nbatch_size = 4\naverage_decay = 0.0\ncrop_s = 10.0\n"
    (tmp_path / "first.toml").write_text(model + recipe)
    (tmp_path / "second.toml").write_text(f'{model}{recipe}[task]\nlabels = "table"\ntable = "acs.csv"\n')
    (tmp_path / "acs.csv").write_text("ecg_id,ACS\n" + "".join(f"{i},{i % 2}\n" for i in range(1, 25)))

    def train(preset, out, *more):
        asked = ["train", "--data", root, "--folds", "1", "--threads", "1", "--json", "--out", str(tmp_path / out)]
        assert main([*asked, "--preset", str(tmp_path / preset), *more]) == 0
        return load_checkpoint(tmp_path / out / "best")

    first = train("first.toml", "a")
    second = train("second.toml", "b", "--init", str(tmp_path / "a" / "best"))
    assert second.facts.classes == ["ACS"]
    assert second.model.config.n_classes == 1
    assert second.facts.training["init"]["sha256"] == first.facts.weights_sha256
    assert second.facts.preset["task"]["table"] == "acs.csv"
    assert 0 <= json.loads(capsys.readouterr().out.splitlines()[-1])["best"]["accuracy"] <= 1
