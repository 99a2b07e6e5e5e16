"""ECG recordings from WFDB files, and choosing some of PTB-XL by what they show."""

from __future__ import annotations

import ast
import csv
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edge.errors import RecordError
from edge.signal.leads import canonical_lead

FloatArray = NDArray[np.float64]

TABLE_NAME = "ptbxl_database.csv"
STATEMENTS_NAME = "scp_statements.csv"
VOLT_UNITS = {"v": 1e3, "mv": 1.0, "uv": 1e-3}
BITS_PER_SAMPLE = {"8": 8, "16": 16, "24": 24, "32": 32, "61": 16, "80": 8, "160": 16, "212": 12, "310": 10, "311": 10}
"""WFDB's storage formats; those that are compressed state nothing."""
COMPRESSED = ("508", "516", "524")
MAX_SECONDS = 30 * 86_400


@dataclass(frozen=True)
class Recording:
    """Some ECG: samples_mv is (samples, leads), NaN where a sample is invalid."""

    name: str
    rate_hz: int
    leads: tuple[str, ...]
    samples_mv: FloatArray
    source: str
    """Where it comes from, in words for people."""
    simulated: bool = False

    @property
    def seconds(self) -> float:
        """How long it is."""
        return len(self.samples_mv) / self.rate_hz


def read_recording(path: Path) -> Recording:
    """Read a WFDB record, named without its ending or by its header file; raises RecordError."""
    try:
        import wfdb
    except ImportError as error:
        raise RecordError(f"reading WFDB records needs wfdb ({error}): pip install 'ecg-edge[wfdb]'") from None
    stem = path.with_suffix("") if path.suffix in (".hea", ".dat") else path
    if not stem.with_name(f"{stem.name}.hea").is_file():
        raise RecordError(f"record {stem}: there is no header {stem.name}.hea; name a WFDB record without its ending")
    try:
        _check_header(stem, wfdb.rdheader(str(stem)))
        record = wfdb.rdrecord(str(stem))
        samples = np.asarray(record.p_signal, dtype=np.float64)
        scale = [VOLT_UNITS[unit.lower()] for unit in record.units]
        leads = tuple(canonical_lead(name) for name in record.sig_name)
    except KeyError as error:
        raise RecordError(f"record {stem}: unit {error} is not a voltage") from None
    except IndexError:
        raise RecordError(f"record {stem}: {stem.name}.hea is empty or cut short") from None
    except (OSError, ValueError, TypeError, AttributeError) as error:
        raise RecordError(f"record {stem} cannot be read: {error}") from None
    if not samples.size:
        raise RecordError(f"record {stem} has no samples")
    if float(record.fs) != round(record.fs):
        raise RecordError(f"record {stem}: {record.fs} samples per second is not a whole number")
    return Recording(stem.name, round(record.fs), leads, samples * scale, f"WFDB record {stem.name}")


def _check_header(stem: Path, header: Any) -> None:
    """See that a record is of a known kind and no longer than its files can hold, before anything of it is read."""
    if header.fs <= 0:
        raise RecordError(f"record {stem}: its header states {header.fs} samples per second")
    if header.sig_len and header.sig_len > MAX_SECONDS * header.fs:
        raise RecordError(f"record {stem}: its header states {header.sig_len} samples, more than a month")
    for name, stored in zip(getattr(header, "file_name", None) or (), getattr(header, "fmt", None) or (), strict=True):
        if stored in COMPRESSED:
            continue
        if stored not in BITS_PER_SAMPLE:
            raise RecordError(f"record {stem}: storage format {stored} is not one that can be read")
        size = stem.with_name(name).stat().st_size
        if header.sig_len and header.sig_len * BITS_PER_SAMPLE[stored] > size * 8:
            raise RecordError(f"record {stem}: its header states {header.sig_len} samples, {name} has {size} bytes")


def choose_from_ptbxl(root: Path, superclasses: Sequence[str], per_class: int) -> list[Path]:
    """Return records of a PTB-XL root that have exactly one superclass, the first few of each that are stored.

    Raises RecordError when the root is not one or lacks records of a superclass.
    """
    statements = _rows(root / STATEMENTS_NAME, ("", "diagnostic", "diagnostic_class"))
    superclass_of = {row[""]: row["diagnostic_class"] for row in statements if row["diagnostic"] in ("1", "1.0")}
    chosen: dict[str, list[Path]] = {name: [] for name in superclasses}
    for row in _rows(root / TABLE_NAME, ("scp_codes", "filename_lr")):
        found = {superclass_of[code] for code in _codes(row["scp_codes"]) if code in superclass_of}
        wanted = chosen.get(next(iter(found))) if len(found) == 1 else None
        path = root / row["filename_lr"]
        if wanted is not None and len(wanted) < per_class and path.with_name(f"{path.name}.hea").is_file():
            wanted.append(path)
        if all(len(paths) == per_class for paths in chosen.values()):
            break
    lacking = [name for name, paths in chosen.items() if not paths]
    if lacking:
        raise RecordError(f"{root} holds no 100 Hz record of {', '.join(lacking)} alone; name records instead")
    return [path for paths in zip(*chosen.values(), strict=False) for path in paths]


def _rows(path: Path, columns: Sequence[str]) -> list[dict[str, str]]:
    try:
        with path.open(encoding="utf-8", newline="") as file:
            table = csv.DictReader(file)
            lacking = set(columns) - set(table.fieldnames or ())
            rows = list(table)
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise RecordError(f"{path} cannot be read ({error}); a PTB-XL root has it") from None
    if lacking:
        raise RecordError(f"{path} has no column {', '.join(sorted(lacking))}; it is not PTB-XL's")
    return rows


def _codes(text: str) -> list[str]:
    try:
        codes = ast.literal_eval(text)
    except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError):
        return []
    return list(codes) if isinstance(codes, dict) else []
