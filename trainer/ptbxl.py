"""PTB-XL from its own layout: waveforms as a cached memory map, superclass labels, folds.

Wagner et al. 2020, Scientific Data 7:154, https://doi.org/10.1038/s41597-020-0495-6 (CC BY 4.0).
"""

from __future__ import annotations

import ast
import hashlib
import json
import os
from collections.abc import Mapping, Sequence, Set
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import wfdb
from joblib import Parallel, delayed
from numpy.typing import NDArray

from edge.errors import RecordError, SignalError
from edge.signal.leads import STANDARD_LEADS, LeadMap
from trainer.folds import folds_text
from trainer.progress import progress

CLASSES = ("NORM", "MI", "STTC", "CD", "HYP")
"""The five diagnostic superclasses."""

RATE_HZ = 100
RECORD_SAMPLES = 1000
RECORDS_TABLE, STATEMENTS_TABLE = "ptbxl_database.csv", "scp_statements.csv"
CACHE_VARIABLE = "ECG_EDGE_CACHE"
CACHE_FORMAT = 1
BATCH_RECORDS = 200
"""How many records one process reads at a time. wfdb takes milliseconds to understand a header, so all cores read."""


@dataclass(frozen=True)
class PtbXl:
    """The records of a root, in the order of their ECG id."""

    signals_uv: NDArray[np.int16]  # (records, 1000, 12), leads in standard order
    labels: NDArray[np.float32]  # (records, classes), 0 or 1
    labelled: NDArray[np.bool_]  # (records,) at least one superclass
    statements: NDArray[np.float32]  # (records, statements), 0 or 1: every SCP statement, diagnostic or not
    statement_codes: tuple[str, ...]  # in the order of scp_statements.csv; PTB-XL has 71
    likelihoods: NDArray[np.float32]  # (records, statements) in percent, 0 where it is not known, NaN: not stated
    folds: NDArray[np.int64]  # (records,)
    ecg_ids: NDArray[np.int64]
    patient_ids: NDArray[np.int64]
    ages: NDArray[np.float64]
    sexes: NDArray[np.int64]
    classes: tuple[str, ...] = CLASSES
    """What the columns of `labels` are; other tasks have others, see `trainer.tasks`."""

    def rows(self, folds: Sequence[int], labelled_only: bool = True) -> NDArray[np.int64]:
        """Return the indices of the records in these folds; those without a superclass are left out unless asked for.

        Raises RecordError when there are none, or none of a fold that is asked for.
        """
        absent = sorted(set(folds) - set(self.folds.tolist()))
        if absent and len(absent) < len(set(folds)):
            raise RecordError(f"this copy of PTB-XL has no records of fold {folds_text(absent)}; it holds folds "
                              f"{folds_text(np.unique(self.folds).tolist())}")  # fmt: skip
        chosen = np.isin(self.folds, list(folds)) & (self.labelled | (not labelled_only))
        if not chosen.any():
            present = ", ".join(str(fold) for fold in np.unique(self.folds))
            raise RecordError(f"no labelled records in folds {list(folds)}; this copy of PTB-XL holds folds {present}")
        return np.flatnonzero(chosen)


def open_ptbxl(root: Path, cache_dir: Path | None = None) -> PtbXl:
    """Open the records that a PTB-XL root holds, all folds or some.

    The first start reads every record with wfdb, on all cores, and keeps the samples in a cache (ECG_EDGE_CACHE, else
    the user's cache folder); later ones map it. Raises RecordError when the root is not one or a record cannot be read.
    """
    table = read_table(root)
    return with_labels(root, table, _cached_signals(root, table, cache_dir or default_cache_dir()))


def with_labels(root: Path, table: pd.DataFrame, signals_uv: NDArray[np.int16]) -> PtbXl:
    """Return the records of a table (see read_table) with what is known of each, their samples being these."""
    stated: list[dict[str, float]] = [ast.literal_eval(text) for text in table["scp_codes"]]
    codes = [frozenset(of_record) for of_record in stated]
    statements = read_statements(root)
    labels = superclass_labels(codes, statements)
    likelihoods = likelihood_table(stated, tuple(statements))
    return PtbXl(
        signals_uv=signals_uv,
        labels=labels,
        labelled=np.asarray(labels.any(axis=1)),
        statements=(~np.isnan(likelihoods)).astype(np.float32),
        statement_codes=tuple(statements),
        likelihoods=likelihoods,
        folds=table["strat_fold"].to_numpy(np.int64),
        ecg_ids=table.index.to_numpy(np.int64),
        patient_ids=table["patient_id"].to_numpy(np.float64).astype(np.int64),
        ages=table["age"].to_numpy(np.float64),
        sexes=table["sex"].to_numpy(np.int64),
    )


def read_table(root: Path) -> pd.DataFrame:
    """Read ptbxl_database.csv, restricted to the records whose header the root holds.

    Raises RecordError when the root lacks one of its tables or every record.
    """
    for name in (RECORDS_TABLE, STATEMENTS_TABLE):
        if not (root / name).is_file():
            raise RecordError(f"{root} is not a PTB-XL root: it has no {name} (see `ecg-trainer download`)")
    table = pd.read_csv(root / RECORDS_TABLE, index_col="ecg_id").sort_index()
    stored = {
        folder.name: {file.name for file in folder.iterdir()} for folder in sorted((root / "records100").glob("*"))
    }
    present = [_is_stored(name, stored) for name in table["filename_lr"]]
    if not any(present):
        raise RecordError(f"{root} holds no 100 Hz records (records100/00000/00001_lr.hea and so on)")
    return table[present]


def read_statements(root: Path) -> dict[str, str | None]:
    """Return every SCP code → its diagnostic superclass, None for statements of form and rhythm."""
    table = pd.read_csv(root / STATEMENTS_TABLE, index_col=0)
    superclasses = table["diagnostic_class"].where(table["diagnostic"] == 1)
    return {str(code): None if pd.isna(name) else str(name) for code, name in superclasses.items()}


def superclass_labels(codes: Sequence[Set[str]], superclass_of: Mapping[str, str | None]) -> NDArray[np.float32]:
    """Return (records, classes): every diagnostic code present, at any likelihood, sets its superclass."""
    labels = np.zeros((len(codes), len(CLASSES)), dtype=np.float32)
    for row, present in enumerate(codes):
        for superclass in filter(None, map(superclass_of.get, present)):
            labels[row, CLASSES.index(superclass)] = 1.0
    return labels


def likelihood_table(stated: Sequence[Mapping[str, float]], statements: Sequence[str]) -> NDArray[np.float32]:
    """Return (records, statements): how likely each statement is in percent, NaN where it was not made."""
    return np.array([[of_record.get(code, np.nan) for code in statements] for of_record in stated], dtype=np.float32)


def default_cache_dir() -> Path:
    """Return where caches are kept."""
    named = os.environ.get(CACHE_VARIABLE)
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(named) if named else Path(base) / "ecg-edge"


def _is_stored(name: str, stored: dict[str, set[str]]) -> bool:
    path = Path(name)
    return f"{path.name}.hea" in stored.get(path.parent.name, set())


def _cached_signals(root: Path, table: pd.DataFrame, cache_dir: Path) -> NDArray[np.int16]:
    shape = (len(table), RECORD_SAMPLES, len(STANDARD_LEADS))
    path = cache_dir / f"ptbxl-{_fingerprint(root, table)}.npy"
    if path.is_file():
        cached: NDArray[np.int16] = np.load(path, mmap_mode="r", allow_pickle=False)
        if cached.shape == shape and cached.dtype == np.int16:
            return cached
    cache_dir.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f"{path.name}.{os.getpid()}.partial")
    _remove_left_over(cache_dir)
    try:
        _read_records(root, table["filename_lr"].tolist(), partial, shape)
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)
    read: NDArray[np.int16] = np.load(path, mmap_mode="r", allow_pickle=False)
    return read


def _remove_left_over(cache_dir: Path) -> None:
    """Remove what processes that have ended, and could not do so themselves, were writing."""
    for partial in cache_dir.glob("*.partial"):
        pid = partial.suffixes[-2].removeprefix(".") if len(partial.suffixes) > 1 else ""
        if pid.isdecimal() and not _lives(int(pid)):
            partial.unlink(missing_ok=True)


def _lives(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except (OSError, OverflowError):
        return True
    return True


def _read_records(root: Path, names: list[str], into: Path, shape: tuple[int, int, int]) -> None:
    signals = np.lib.format.open_memmap(into, mode="w+", dtype=np.int16, shape=shape)
    starts = range(0, len(names), BATCH_RECORDS)
    parallel = Parallel(n_jobs=-1 if len(starts) > 1 else 1, return_as="generator")
    batches = parallel(delayed(_read_batch)(root, names[start : start + BATCH_RECORDS]) for start in starts)
    with progress() as bar:
        task = bar.add_task("reading PTB-XL", total=len(names))
        for start, batch in zip(starts, batches, strict=True):
            signals[start : start + len(batch)] = batch
            bar.advance(task, len(batch))
    signals.flush()


def _read_batch(root: Path, names: Sequence[str]) -> NDArray[np.int16]:
    return np.stack([_read_record(root / name) for name in names])


def _read_record(path: Path) -> NDArray[np.int16]:
    """Return one record in whole microvolts, (1000, 12)."""
    try:
        record = wfdb.rdrecord(str(path), physical=False)
        order = list(LeadMap.between(record.sig_name).indices)
    except (OSError, ValueError, SignalError) as error:
        raise RecordError(f"record {path} cannot be read: {error}") from None
    samples, gain, baseline = (
        np.asarray(of_lead, dtype=np.float64)[..., order]
        for of_lead in (record.d_signal, record.adc_gain, record.baseline)
    )
    microvolts = np.rint((samples - baseline) / gain * 1000.0)
    if microvolts.shape != (RECORD_SAMPLES, len(STANDARD_LEADS)) or record.fs != RATE_HZ:
        raise RecordError(f"record {path} is not 10 s of 12 leads at 100 Hz")
    return np.clip(microvolts, -32768, 32767).astype(np.int16)


def _fingerprint(root: Path, table: pd.DataFrame) -> str:
    """Name a cache by where the data stands and which records there are."""
    facts = [CACHE_FORMAT, str(root.resolve()), table["filename_lr"].tolist()]
    return hashlib.sha256(json.dumps(facts).encode()).hexdigest()[:16]
