"""What a precision costs: how far its graph is from PyTorch, and what that does to macro-AUC, graph by graph."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from sklearn.metrics import roc_auc_score

from edge.runtime import onnx
from edge.runtime.base import calibrated
from edge.runtime.bundle import Bundle
from edge.runtime.manifest import WINDOWED
from edge.runtime.select import open_runtime
from export.graph import ExportError
from export.precision import bundle_in_precision
from export.verify import TOLERANCES, Reference, cold_windows, compare, max_difference, one_thread, streaming_model
from trainer.predict import labels_of, stream_logits
from trainer.progress import progress
from trainer.ptbxl import PtbXl
from trainer.report import Sheet

Float32Array = NDArray[np.float32]

LARGEST_FALL = 0.001
"""A precision that costs more macro-AUC than this is not shipped."""


@dataclass(frozen=True)
class PrecisionRow:
    """One precision, run by ONNX Runtime on the CPU. What needs labelled records is None without them."""

    precision: str
    graph_bytes: int
    max_difference: float
    """Largest |Δlogit| from PyTorch on windows and streams."""
    tolerance: float | None
    """What that may be; None where macro-AUC alone decides."""
    records_max_difference: float | None = None
    """Largest |Δlogit| from the float32 graph at the end of each labelled record."""
    macro_auc: float | None = None
    macro_auc_change: float | None = None
    passed: bool | None = None
    """None where nothing that was measured could decide."""


@dataclass(frozen=True)
class PrecisionTable:
    """The precisions of one bundle side by side."""

    bundle: str
    model_hash: str
    source: str
    folds: list[int]
    records: int
    largest_fall: float
    precisions: list[PrecisionRow]

    @property
    def passed(self) -> bool:
        """Whether every precision that a bundle is shipped in keeps its limits."""
        return all(row.passed for row in self.precisions if row.precision in TOLERANCES)


@dataclass(frozen=True)
class LabelledRecords:
    """Records of PTB-XL whose macro-AUC is measured."""

    data: PtbXl
    folds: list[int]


def precision_sheet(table: PrecisionTable, command: str, date: str) -> Sheet:
    """Lay the precisions out for a terminal or a model card."""
    measured = f"{table.records} records of fold {', '.join(map(str, table.folds))}" if table.records else table.source
    return Sheet(
        title=f"Precision of the projections, in ONNX Runtime on the CPU, {table.bundle}",
        columns=["precision", "bytes", "largest |Δlogit|", "macro-AUC", "change", "verdict"],
        rows=[_cells(row) for row in table.precisions],
        command=command,
        date=date,
        notes=f"On {measured}. The scan and the state are float32. May cost {table.largest_fall:g} macro-AUC.",
    )


def precision_table(
    bundle: Bundle, precisions: Sequence[str], signals: Float32Array, source: str, records: LabelledRecords | None
) -> PrecisionTable:
    """Compare precisions of a bundle on model input (streams, samples, leads) and, where there are some, on records.

    The float32 graph is always measured: it is what the others are held against. Raises ExportError for a windowed
    bundle, which has no other.
    """
    manifest = bundle.manifest
    if manifest.kind == WINDOWED:
        raise ExportError(f"{manifest.name} is a windowed bundle: its graph comes in float32 alone")
    windows = cold_windows(signals, manifest)
    with one_thread():
        reference = Reference(streaming_model(bundle), manifest.hop_samples, windows, signals)
    rows: list[PrecisionRow] = []
    base: _Scores | None = None
    with tempfile.TemporaryDirectory() as folder:
        for precision in dict.fromkeys(["fp32", *precisions]):
            variant = bundle_in_precision(bundle, precision, Path(folder, precision))
            scores = None if records is None else _score(variant, records, precision)
            base = scores if base is None else base
            rows.append(_row(variant, precision, reference, scores, base))
    return PrecisionTable(
        bundle=f"{manifest.name} {manifest.version}",
        model_hash=manifest.model_hash,
        source=source,
        folds=[] if records is None else records.folds,
        records=0 if base is None else len(base.logits),
        largest_fall=LARGEST_FALL,
        precisions=rows,
    )


@dataclass(frozen=True)
class _Scores:
    logits: Float32Array  # (records, classes)
    macro_auc: float


def _row(
    variant: Bundle, precision: str, reference: Reference, scores: _Scores | None, base: _Scores | None
) -> PrecisionRow:
    parity = compare(variant, onnx.NAME, reference, precision)
    differences = [parity.cold_max_difference, parity.stream_max_difference]
    row = PrecisionRow(
        precision=precision,
        graph_bytes=variant.onnx_path.stat().st_size,
        max_difference=max(difference for difference in differences if difference is not None),
        tolerance=TOLERANCES.get(precision),
        passed=parity.passed if precision in TOLERANCES else None,
    )
    if scores is None or base is None:
        return row
    change = scores.macro_auc - base.macro_auc
    return PrecisionRow(
        **{
            **vars(row),
            "records_max_difference": max_difference(scores.logits, base.logits),
            "macro_auc": scores.macro_auc,
            "macro_auc_change": change,
            "passed": parity.passed and change >= -LARGEST_FALL,
        }
    )


def _cells(row: PrecisionRow) -> list[str | float | int | None]:
    verdict = {True: "pass", False: "refused", None: "undecided without records"}[row.passed]
    difference = f"{max(row.max_difference, row.records_max_difference or 0.0):.1e}"
    auc = None if row.macro_auc is None else f"{row.macro_auc:.4f}"
    change = None if row.macro_auc_change is None else f"{row.macro_auc_change:+.4f}"
    return [row.precision, row.graph_bytes, difference, auc, change, verdict]


def _score(variant: Bundle, records: LabelledRecords, precision: str) -> _Scores:
    rows = records.data.rows(records.folds)
    labels = labels_of(variant, records.data, rows)
    with progress() as bar:
        task = bar.add_task(f"scoring, {precision}", total=len(rows))
        logits = stream_logits(
            open_runtime(variant, onnx.NAME), records.data, rows, lambda done: bar.advance(task, done)
        )
    published = calibrated(variant.manifest.calibration, logits)
    aucs = [roc_auc_score(labels[:, index], published[:, index]) for index in range(labels.shape[1])]
    return _Scores(logits, float(np.mean(aucs)))
