"""PTB-XL: the label rule, folds, leads and the cache."""

from __future__ import annotations

import ast
import os
import subprocess
import sys

import numpy as np
import pytest

from edge.errors import RecordError
from edge.signal.leads import STANDARD_LEADS
from tests.tiny_ptbxl import Row, synthetic_record_uv, write_ptbxl, write_record
from trainer import ptbxl
from trainer.ptbxl import CLASSES, default_cache_dir, open_ptbxl, read_statements, superclass_labels

ROWS = [
    Row(1, "{'NORM': 100.0, 'SR': 0.0}", 1, 11),
    Row(2, "{'IMI': 0.0, 'LVH': 35.0, 'ABQRS': 0.0}", 2, 12),
    Row(3, "{'SR': 100.0}", 9, 13),
    Row(1004, "{'LAFB': 100.0}", 9, 13),
]


@pytest.fixture
def root(tmp_path):
    return write_ptbxl(tmp_path / "ptb-xl", ROWS)


def labels_of(*codes):
    superclass_of = {"NORM": "NORM", "IMI": "MI", "AMI": "MI", "NDT": "STTC", "LAFB": "CD", "LVH": "HYP"}
    return superclass_labels([set(ast.literal_eval(text)) for text in codes], superclass_of).tolist()


def test_a_diagnostic_code_counts_at_any_likelihood():
    assert labels_of("{'IMI': 0.0}", "{'IMI': 15.0}", "{'IMI': 100.0}") == [[0, 1, 0, 0, 0]] * 3


def test_codes_of_several_superclasses_set_several_labels_and_two_of_one_set_it_once():
    assert labels_of("{'IMI': 100.0, 'AMI': 50.0, 'LVH': 0.0}") == [[0, 1, 0, 0, 1]]


def test_codes_that_are_not_diagnostic_set_no_label():
    assert labels_of("{'SR': 100.0, 'ABQRS': 0.0}", "{}") == [[0] * 5] * 2


def test_only_statements_marked_diagnostic_have_a_superclass(root):
    superclass_of = read_statements(root)
    assert superclass_of["NDT"] == "STTC"
    assert superclass_of["SR"] is None
    assert superclass_of["ABQRS"] is None


def test_records_without_a_superclass_are_left_out_unless_asked_for(root, tmp_path):
    data = open_ptbxl(root, tmp_path / "cache")
    assert data.ecg_ids[data.rows([9])].tolist() == [1004]
    assert data.ecg_ids[data.rows([9], labelled_only=False)].tolist() == [3, 1004]
    assert data.labels[data.rows([2])].tolist() == [[0, 1, 0, 0, 1]]


def test_statements_are_all_that_were_made_of_a_record_diagnostic_or_not(root, tmp_path):
    data = open_ptbxl(root, tmp_path / "cache")
    assert data.statement_codes == ("NORM", "IMI", "NDT", "LAFB", "LVH", "SR", "ABQRS")
    assert data.statements.tolist() == [
        [1, 0, 0, 0, 0, 1, 0],
        [0, 1, 0, 0, 1, 0, 1],
        [0, 0, 0, 0, 0, 1, 0],
        [0, 0, 0, 1, 0, 0, 0],
    ]


def test_the_samples_are_the_records_microvolts(root, tmp_path):
    data = open_ptbxl(root, tmp_path / "cache")
    rng = np.random.default_rng(0)
    for row, samples in zip(ROWS, data.signals_uv, strict=True):
        np.testing.assert_array_equal(samples, synthetic_record_uv(row, rng))


def test_leads_in_another_order_come_out_in_the_standard_one(root, tmp_path):
    samples = synthetic_record_uv(ROWS[0], np.random.default_rng(1))
    write_record(root, ROWS[0], samples[:, ::-1], [name.upper() for name in reversed(STANDARD_LEADS)])
    np.testing.assert_array_equal(open_ptbxl(root, tmp_path / "cache").signals_uv[0], samples)


def test_a_record_with_a_lead_missing_is_refused(root, tmp_path):
    samples = synthetic_record_uv(ROWS[0], np.random.default_rng(1))
    write_record(root, ROWS[0], samples[:, :11], list(STANDARD_LEADS[:11]))
    with pytest.raises(RecordError, match="V6"):
        open_ptbxl(root, tmp_path / "cache")


def test_what_a_killed_process_was_writing_into_the_cache_is_removed_and_nothing_else(root, tmp_path):
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    cache = tmp_path / "cache"
    cache.mkdir()
    left_over, in_work = (cache / f"ptbxl-0.npy.{pid}.partial" for pid in (ended.pid, os.getpid()))
    for path in (left_over, in_work):
        path.touch()
    open_ptbxl(root, cache)
    assert not left_over.exists()
    assert in_work.exists()


def test_the_second_start_maps_the_cache_and_reads_no_record(root, tmp_path, monkeypatch):
    first = open_ptbxl(root, tmp_path / "cache")
    monkeypatch.setattr(ptbxl.wfdb, "rdrecord", lambda *args, **kwargs: pytest.fail("a record was read again"))
    second = open_ptbxl(root, tmp_path / "cache")
    assert isinstance(second.signals_uv, np.memmap)
    np.testing.assert_array_equal(first.signals_uv, second.signals_uv)


def test_all_processes_together_read_what_one_does(root, tmp_path, monkeypatch):
    alone = open_ptbxl(root, tmp_path / "cache")
    monkeypatch.setattr(ptbxl, "BATCH_RECORDS", 3)
    together = open_ptbxl(root, tmp_path / "other")
    np.testing.assert_array_equal(alone.signals_uv, together.signals_uv)


def test_a_record_that_another_process_cannot_read_is_named(root, tmp_path, monkeypatch):
    monkeypatch.setattr(ptbxl, "BATCH_RECORDS", 3)
    (root / f"{ROWS[3].name}.dat").unlink()
    with pytest.raises(RecordError, match="01004_lr"):
        open_ptbxl(root, tmp_path / "cache")
    assert not list((tmp_path / "cache").iterdir())


def test_a_root_that_has_grown_is_read_again(root, tmp_path):
    open_ptbxl(root, tmp_path / "cache")
    write_ptbxl(root, [*ROWS, Row(1005, "{'NORM': 100.0}", 3, 15)])
    assert open_ptbxl(root, tmp_path / "cache").ecg_ids.tolist() == [1, 2, 3, 1004, 1005]


def test_a_reading_that_was_cut_short_leaves_no_cache(root, tmp_path):
    broken = root / f"{ROWS[3].name}.dat"
    whole = broken.read_bytes()
    broken.write_bytes(whole[:100])
    with pytest.raises(RecordError, match="01004_lr"):
        open_ptbxl(root, tmp_path / "cache")
    assert list((tmp_path / "cache").iterdir()) == []
    broken.write_bytes(whole)
    assert np.abs(open_ptbxl(root, tmp_path / "cache").signals_uv[3]).max() > 500


def test_a_root_with_some_of_the_records_is_a_root(root, tmp_path):
    (root / f"{ROWS[1].name}.hea").unlink()
    data = open_ptbxl(root, tmp_path / "cache")
    assert data.ecg_ids.tolist() == [1, 3, 1004]
    with pytest.raises(RecordError, match="holds folds 1, 9"):
        data.rows([2])
    with pytest.raises(RecordError, match=r"no records of fold 2-8,10; it holds folds 1,9$"):
        data.rows(range(1, 11))


def test_a_folder_that_is_no_root_says_how_to_get_one(tmp_path):
    with pytest.raises(RecordError, match="ecg-trainer download"):
        open_ptbxl(tmp_path)


@pytest.mark.parametrize("table", ["ptbxl_database.csv", "scp_statements.csv"])
def test_a_root_that_lacks_a_table_is_refused_before_anything_is_read(root, tmp_path, table):
    (root / table).unlink()
    with pytest.raises(RecordError, match=f"no {table}"):
        open_ptbxl(root, tmp_path / "cache")
    assert not (tmp_path / "cache").exists()


def test_a_root_without_records_is_refused(tmp_path):
    root = write_ptbxl(tmp_path / "ptb-xl", [])
    with pytest.raises(RecordError, match="no 100 Hz records"):
        open_ptbxl(root, tmp_path / "cache")


def test_the_cache_stands_where_the_environment_says(monkeypatch, tmp_path):
    monkeypatch.setenv("ECG_EDGE_CACHE", str(tmp_path))
    assert default_cache_dir() == tmp_path
    monkeypatch.delenv("ECG_EDGE_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", "/var/cache/me")
    assert str(default_cache_dir()) == "/var/cache/me/ecg-edge"


def test_no_patient_of_ptb_xl_stands_in_two_folds(ptbxl_root):
    table = ptbxl.read_table(ptbxl_root)
    assert table.groupby("patient_id")["strat_fold"].nunique().max() == 1


def test_the_superclasses_of_ptb_xl_are_as_many_as_published(ptbxl_root):
    """Fold 9 as the data set's own example code counts it."""
    table = ptbxl.read_table(ptbxl_root)
    fold_9 = table[table["strat_fold"] == 9]
    if len(fold_9) != 2183:
        pytest.skip("this copy of PTB-XL holds a part of fold 9")
    codes = [set(ast.literal_eval(text)) for text in fold_9["scp_codes"]]
    labels = superclass_labels(codes, read_statements(ptbxl_root))
    assert dict(zip(CLASSES, labels.sum(0).astype(int).tolist(), strict=True)) == {
        "NORM": 955, "MI": 540, "STTC": 528, "CD": 495, "HYP": 268,
    }  # fmt: skip
    assert int((labels.sum(1) == 0).sum()) == 37
