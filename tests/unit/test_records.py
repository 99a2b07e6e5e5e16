"""Reading WFDB records, made here and of PTB-XL and MIT-BIH where they are."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
import wfdb

from edge.errors import RecordError
from edge.replay.records import choose_from_ptbxl, read_recording
from edge.signal.leads import STANDARD_LEADS
from tests.tiny_ptbxl import rows_of, write_ptbxl


@pytest.fixture
def record(tmp_path):
    rng = np.random.default_rng(0)
    samples = rng.normal(size=(50, 2)).round(3)
    samples[7, 1] = np.nan
    wfdb.wrsamp("made", 360, ["mV", "uV"], ["MLII", "v5"], p_signal=samples, fmt=["16", "16"], write_dir=str(tmp_path))
    return tmp_path / "made", samples


@pytest.mark.parametrize("ending", ["", ".hea", ".dat"])
def test_a_record_is_read_in_millivolts_by_any_of_its_names(record, ending):
    path, samples = record
    read = read_recording(Path(f"{path}{ending}"))
    assert (read.name, read.rate_hz, read.leads, read.simulated) == ("made", 360, ("MLII", "V5"), False)
    assert np.allclose(read.samples_mv, samples * [1.0, 1e-3], atol=1e-3, equal_nan=True)
    assert np.isnan(read.samples_mv[7, 1])


def test_a_missing_record_is_one_clear_line(tmp_path):
    with pytest.raises(RecordError, match=r"no header none\.hea"):
        read_recording(tmp_path / "none")


def test_a_damaged_record_is_one_clear_line(record):
    path, _ = record
    path.with_suffix(".dat").write_bytes(b"\0" * 10)
    with pytest.raises(RecordError, match="has 10 bytes"):
        read_recording(path)


def test_a_header_that_is_no_header_is_one_clear_line(tmp_path):
    (tmp_path / "junk.hea").write_text("\x00\x01 not a header")
    with pytest.raises(RecordError, match="cannot be read"):
        read_recording(tmp_path / "junk")


@pytest.mark.parametrize(
    ("header", "said"),
    [
        ("junk 0 360 10\n", "no samples|cannot be read"),
        ("junk 1 360 10\njunk.dat 16 200/mmHg 16 0 0 0 0 ABP\n", "not a voltage"),
        ("junk 1 360 10\njunk.dat 16 200/mV 16 0 0 0 0\n", "cannot be read"),
        ("junk 1 360 99999999999\njunk.dat 16 200/mV 16 0 0 0 0 I\n", "more than a month"),
        ("junk 1 360 3600\njunk.dat 16 200/mV 16 0 0 0 0 I\n", "states 3600 samples, junk.dat has 20 bytes"),
        ("junk 1 360 10\njunk.dat 999 200/mV 16 0 0 0 0 I\n", "storage format 999"),
        ("junk 1 0 10\njunk.dat 16 200/mV 16 0 0 0 0 I\n", "0 samples per second"),
    ],
)
def test_a_record_without_usable_leads_is_one_clear_line(tmp_path, header, said):
    (tmp_path / "junk.hea").write_text(header)
    (tmp_path / "junk.dat").write_bytes(b"\0" * 20)
    with pytest.raises(RecordError, match=said):
        read_recording(tmp_path / "junk")


def test_records_are_chosen_by_what_they_show(tmp_path):
    rows = rows_of(["NORM", "IMI"], folds=[1, 2])
    chosen = choose_from_ptbxl(write_ptbxl(tmp_path, rows), ("NORM", "MI"), per_class=1)
    assert [path.name for path in chosen] == [Path(rows[0].name).name, Path(rows[1].name).name]
    assert all(path.with_name(f"{path.name}.hea").is_file() for path in chosen)


def test_a_folder_that_is_no_ptbxl_is_said_to_be_none(tmp_path):
    with pytest.raises(RecordError, match="PTB-XL root"):
        choose_from_ptbxl(tmp_path, ("NORM",), 1)


def test_a_superclass_without_records_is_named(tmp_path):
    root = write_ptbxl(tmp_path, rows_of(["NORM", "IMI"], folds=[1, 2]))
    with pytest.raises(RecordError, match="no 100 Hz record of HYP, CD alone"):
        choose_from_ptbxl(root, ("NORM", "HYP", "CD"), 1)


def test_a_table_without_its_columns_is_one_clear_line(tmp_path):
    root = write_ptbxl(tmp_path, rows_of(["NORM"], folds=[1]))
    (root / "scp_statements.csv").write_text("a,b\n1,2\n")
    with pytest.raises(RecordError, match="no column"):
        choose_from_ptbxl(root, ("NORM",), 1)


def test_ptbxl_reads_at_both_rates(ptbxl_root):
    slow = read_recording(ptbxl_root / "records100/00000/00001_lr")
    fast = read_recording(ptbxl_root / "records500/00000/00001_hr")
    assert (slow.rate_hz, fast.rate_hz) == (100, 500)
    assert slow.leads == fast.leads == STANDARD_LEADS
    assert slow.seconds == fast.seconds == 10.0


def test_mitdb_is_read_with_its_two_leads():
    root = os.environ.get("MITDB_ROOT")
    if not root:
        pytest.skip("MITDB_ROOT is not set: this test needs a copy of the MIT-BIH database")
    read = read_recording(Path(root) / "100")
    assert (read.rate_hz, read.leads) == (360, ("MLII", "V5"))
    assert read.seconds > 1800
