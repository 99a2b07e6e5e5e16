"""The card's own tables: figures of whole records, seeds next to one another, the carried state."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from edge.runtime.manifest import Manifest, StateMonitor
from trainer.bootstrap import Interval
from trainer.calibration import weights_of
from trainer.card.markdown import sentences, settings_text
from trainer.card.sources import Evaluated, Sources
from trainer.report import MeasuredModel, Measurement, Sheet
from trainer.stream_evaluation.result import StreamEvaluation
from trainer.stream_evaluation.sheets import auc_text, minutes_text

Cell = str | float | int | None

MODES = {"batch": "whole records in PyTorch", "stream": "second by second on the device's path"}


def figures_sheet(evaluated: Evaluated) -> Sheet:
    """Return the figures of whole records, classes below one another."""
    printed, measurement = evaluated.printed, evaluated.measurement
    figures, drawn = measurement.figures, measurement.intervals
    rows: list[list[Cell]] = []
    for name, row in figures.per_class.items():
        interval = drawn.per_class[name]["auc"] if drawn else None
        shares = map(_share, (row.auprc, row.precision, row.recall, row.f1, row.ece))
        rows.append([name, row.positives, auc_text(row.auc, interval), *shares, f"{row.threshold:.3f}"])
    macro: Interval | None = drawn.macro["auc"] if drawn else None
    means = (figures.macro_auprc, figures.macro_precision, figures.macro_recall, figures.macro_f1, figures.ece)
    rows.append(["**macro**", figures.n_records, auc_text(figures.macro_auc, macro), *map(_share, means), None])
    return Sheet(
        title=f"Fold {', '.join(map(str, printed.folds))}, {MODES.get(printed.mode, printed.mode)}",
        columns=["class", "records", "ROC-AUC", "average precision", "precision", "recall", "F1", "calibration error",
                 "called at"],
        rows=rows,
        notes=sentences([*printed.notes, _half_widths(measurement)]),
        command=printed.command,
        date=printed.date,
    )  # fmt: skip


def seed_sheets(sources: Sources) -> list[Sheet]:
    """Return the bundle's figures next to those of other seeds, a table per way of measuring; none without others."""
    sheets = []
    for mode, words in MODES.items():
        others = [e for e in sources.seeds.records if e.printed.mode == mode]
        if others:
            own = [e for e in sources.own.records if e.printed.mode == mode]
            sheets.append(_records_by_seed(words, _once(own, others)))
    if sources.seeds.streams:
        sheets.append(_streams_by_seed([*sources.own.streams, *sources.seeds.streams]))
    return sheets


def calibration_sheet(manifest: Manifest) -> Sheet:
    """Return how much each class's output counts in each class's probability."""
    calibration, classes = manifest.calibration, manifest.classes
    rows: list[list[Cell]] = [
        [name, *(f"{weight:.2f}" for weight in of_class), f"{bias:.2f}"]
        for name, of_class, bias in zip(classes, weights_of(calibration).tolist(), calibration.bias, strict=True)
    ]
    return Sheet(
        title="What the outputs count in each class's probability",
        columns=["probability of", *(f"output {name}" for name in classes), "constant"],
        rows=rows,
        notes="A probability is the sigmoid of a row's sum: a network that sees much wrong with an ECG says some "
        "classes too readily, which its own training records do not show."
        if calibration.others
        else "",
    )


def state_sheet(monitor: StateMonitor) -> Sheet:
    """Return what a device watches the carried state by."""
    return Sheet(
        title="Root mean square of each tensor, and the limit that a device resets at",
        columns=["tensor", "median", "99 %", "99.9 %", "largest", "limit"],
        rows=[[name, r.p50, r.p99, r.p99_9, r.max, r.limit] for name, r in monitor.tensors.items()],
        notes=f"Measured: {settings_text(monitor.measured)}." if monitor.measured else "",
    )


def _records_by_seed(words: str, evaluated: Sequence[Evaluated]) -> Sheet:
    figures = [e.measurement.figures for e in evaluated]
    values = [[f.macro_auc, f.macro_auprc, f.macro_f1, f.ece] for f in figures]
    models = [e.printed.bundle for e in evaluated]
    return _by_seed(
        f"The same recipe with other seeds, {words}",
        ["macro-AUC", "average precision", "macro-F1", "calibration error"],
        models,
        values,
        "Calibration and thresholds of each model are its own.",
    )


def _streams_by_seed(evaluated: Sequence[StreamEvaluation]) -> Sheet:
    minutes = sorted({row.minutes for e in evaluated for row in e.warm or ()})
    values = []
    for e in evaluated:
        measured = {row.minutes: row.auc.macro for row in e.warm or ()}
        values.append([measured.get(m) for m in minutes])
    return _by_seed(
        "The same recipe with other seeds, on streams",
        [f"macro-AUC, {minutes_text(m)}" for m in minutes],
        [e.bundle for e in evaluated],
        values,
        "At the 10th second of a record, cold and after so much other ECG.",
    )


def _by_seed(
    title: str, columns: list[str], models: Sequence[MeasuredModel | None], values: list[list[float | None]], notes: str
) -> Sheet:
    rows: list[list[Cell]] = [
        [_seed_text(model), *map(auc_text, of_model)] for model, of_model in zip(models, values, strict=True)
    ]
    rows.append([f"**mean ± sd of {len(values)}**", *map(_spread, zip(*values, strict=True))])
    return Sheet(title=title, columns=["seed", *columns], rows=rows, notes=notes)


def _once(own: Sequence[Evaluated], others: Sequence[Evaluated]) -> list[Evaluated]:
    """Return the bundle's evaluations, but for those that are among the others, and the others."""
    hashes = {e.printed.bundle.hash for e in others if e.printed.bundle is not None}
    return [*(e for e in own if e.printed.bundle is None or e.printed.bundle.hash not in hashes), *others]


def _seed_text(model: MeasuredModel | None) -> str:
    if model is None:
        return "–"
    return model.hash[:8] if model.seed is None else f"{model.seed} ({model.hash[:8]})"


def _spread(values: Sequence[float | None]) -> str | None:
    known = [value for value in values if value is not None]
    if not known:
        return None
    mean = f"{np.mean(known):.4f}"
    return f"{mean} ± {np.std(known, ddof=1):.4f}" if len(known) > 1 else mean


def _share(value: float | None) -> str | None:
    return None if value is None else f"{value:.3f}"


def _half_widths(measurement: Measurement) -> str:
    drawn = measurement.intervals
    return f"±: half the {drawn.level:.0%} interval of {drawn.replicates:,} bootstrap replicates" if drawn else ""
