"""An evaluation as it is kept and printed: figures with intervals, and what makes them look better than they are."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import msgspec
import numpy as np
from numpy.typing import NDArray
from rich import box
from rich.table import Table

from edge.runtime.base import calibrated
from edge.runtime.manifest import Manifest
from trainer.bootstrap import Interval, Intervals, bootstrap_intervals
from trainer.metrics import Figures, figures

DATA = "PTB-XL 1.0.3, records100"
DEFAULT_REPLICATES = 1000
SEED = 0

_COLUMNS = ("auc", "auprc", "precision", "recall", "f1", "ece")


class Sheet(msgspec.Struct, frozen=True, kw_only=True):
    """A table of text and figures, for a terminal or for a model card; also what a study's JSON holds."""

    title: str
    columns: list[str]
    rows: list[list[str | float | int | None]]
    command: str = ""
    date: str = ""
    notes: str = ""


class MeasuredModel(msgspec.Struct, frozen=True):
    """Which model figures are of, and the seed it was trained with where that is known."""

    name: str
    version: str
    hash: str
    seed: int | None = None


@dataclass(frozen=True)
class Measurement:
    """The figures of one set of records."""

    figures: Figures
    intervals: Intervals | None

    def to_builtins(self) -> dict[str, object]:
        """Return plain values: the figures at the top, `intervals` beside them."""
        plain: dict[str, object] = msgspec.to_builtins(self.figures)
        return {**plain, "intervals": msgspec.to_builtins(self.intervals)}


def measure(
    manifest: Manifest, logits: NDArray[np.float32], labels: NDArray[np.float32], replicates: int
) -> Measurement:
    """Measure logits against labels, both (records, classes); 0 replicates give no intervals.

    Probabilities are calibrated, and classes called at their F1 thresholds, as the manifest says.
    """
    probabilities = calibrated(manifest.calibration, logits)
    thresholds = [manifest.operating_points[name].f1_threshold for name in manifest.classes]
    measured = figures(labels, probabilities, thresholds, manifest.classes)
    if replicates < 1:
        return Measurement(measured, None)
    drawn = bootstrap_intervals(labels, probabilities, thresholds, manifest.classes, replicates, SEED)
    return Measurement(measured, drawn)


def fold_notes(manifest: Manifest, folds: Sequence[int]) -> list[str]:
    """Return a line for each way in which the bundle has seen some of these folds before."""
    start = manifest.training.get("init")
    uses = {
        "trained on": manifest.training.get("folds"),
        "seen by the training it started from": start.get("folds") if isinstance(start, dict) else None,
        "used to choose the weights": manifest.training.get("tune_folds"),
        "used to fit calibration and thresholds": manifest.metrics.get("tuned_on_folds"),
    }
    notes = []
    for use, used in uses.items():
        seen = [fold for fold in folds if isinstance(used, list) and fold in used]
        if seen:
            named = f"fold {seen[0]} was" if len(seen) == 1 else f"folds {', '.join(map(str, seen))} were"
            notes.append(f"{named} {use}: these figures flatter the model")
    return notes


def measured_model(manifest: Manifest) -> MeasuredModel:
    """Return what names a bundle's model in figures."""
    seed = manifest.training.get("seed")
    return MeasuredModel(manifest.name, manifest.version, manifest.model_hash, seed if isinstance(seed, int) else None)


def sheet_table(sheet: Sheet) -> Table:
    """Lay a sheet out for a terminal, its notes below it."""
    table = Table(title=sheet.title, caption=sheet.notes or None, box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0))
    for k, name in enumerate(sheet.columns):
        table.add_column(name, justify="left" if k == 0 else "right")
    for row in sheet.rows:
        table.add_row(*map(cell_text, row))
    return table


def cell_text(value: str | float | None) -> str:
    """Write one cell; a figure that is not there is a dash."""
    if value is None:
        return "–"
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def figures_table(title: str, measurement: Measurement) -> Table:
    """Lay figures out for a terminal of 80 columns, the intervals' half widths below them."""
    table = Table(title=title, caption=_caption(measurement.intervals), box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0))
    table.add_column("class", no_wrap=True)
    for name in ("records", "called at", *_COLUMNS):
        table.add_column(name, justify="right")
    intervals = measurement.intervals
    for name, row in measurement.figures.per_class.items():
        by_measure = intervals.per_class[name] if intervals else {}
        cells = [_cell(getattr(row, column), by_measure.get(column)) for column in _COLUMNS]
        table.add_row(name, f"{row.positives:,}", f"{row.threshold:.3f}", *cells)
    table.add_section()
    table.add_row("macro", f"{measurement.figures.n_records:,}", "", *_macro_cells(measurement), style="bold")
    return table


def _macro_cells(measurement: Measurement) -> list[str]:
    means, intervals = measurement.figures, measurement.intervals
    values = [means.macro_auc, means.macro_auprc, means.macro_precision, means.macro_recall, means.macro_f1, means.ece]
    by_measure = intervals.macro if intervals else {}
    return [_cell(value, by_measure.get(column)) for column, value in zip(_COLUMNS, values, strict=True)]


def _cell(value: float | None, interval: Interval | None) -> str:
    if value is None:
        return "–"
    return f"{value:.4f}" if interval is None else f"{value:.4f}\n±{(interval[1] - interval[0]) / 2:.3f}"


def _caption(intervals: Intervals | None) -> str | None:
    if intervals is None:
        return None
    return f"±: half the {intervals.level:.0%} interval of {intervals.replicates:,} bootstrap replicates"
