"""All presets in one table: what each is and cost to train, how good it is, what a hop costs, what it should reach.

A row is compared with the others of its task: those were measured on the same records.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import groupby
from typing import Any

import msgspec

from trainer.bootstrap import Interval
from trainer.card.markdown import table_line
from trainer.claims import Verdict, verdict
from trainer.compare.cost import HopCost
from trainer.compare.flops import STATED
from trainer.compare.report import operations, task_words
from trainer.compare.runs import Run
from trainer.report import MeasuredModel

ABSENT = "–"


class Row(msgspec.Struct, frozen=True, kw_only=True):
    """One trained network."""

    preset: str
    task: str
    kind: str
    """Of its bundle: recurrent or windowed."""
    parameters: int
    flops: int
    """Of a ten-second record."""
    epochs: int
    epochs_planned: int
    finished: bool
    """Whether there are no epochs to come: all are done, or the last ones were no better for long."""
    training_s: float | None
    n_records: int
    macro_auc: float | None
    macro_auc_interval: Interval | None
    macro_auprc: float | None
    macro_f1_at_half: float | None
    macro_auc_tuned: float | None
    """Classes calibrated in the light of each other, as the other half of the patients says, both ways."""
    macro_f1_tuned: float | None
    """So calibrated, at thresholds of the other half of the patients, both ways."""
    accuracy: float | None
    """Of networks that know one label a record."""
    runtime: str
    hop_s: float
    ms_per_hop: float
    streams_per_core: float
    claims: list[Verdict]
    notes: list[str]
    model: MeasuredModel


class Comparison(msgspec.Struct, frozen=True, kw_only=True):
    """The table, and what it takes to read it."""

    data: str
    folds: list[int]
    replicates: int
    date: str
    command: str
    processor: str
    rows: list[Row]
    missing: dict[str, str]
    """Presets without a row, and why."""
    notes: list[str]


def row_of(run: Run, kind: str, report: dict[str, Any], cost: HopCost) -> Row:
    """Return the row of a run from its report and what its hop costs."""
    intervals = report["intervals"]
    return Row(
        preset=run.name,
        task=task_words(run.preset),
        kind=kind,
        parameters=sum(p.numel() for p in run.checkpoint.model.parameters() if p.requires_grad),
        flops=operations(run),
        epochs=run.epochs,
        epochs_planned=run.preset.training.epochs,
        finished=run.finished,
        training_s=run.seconds,
        n_records=report["n_records"],
        macro_auc=report["macro_auc"],
        macro_auc_interval=intervals["macro"]["auc"] if intervals else None,
        macro_auprc=report["macro_auprc"],
        macro_f1_at_half=report["macro_f1_at_half"],
        macro_auc_tuned=report["macro_auc_crossfit"],
        macro_f1_tuned=report["macro_f1_crossfit"],
        accuracy=report["accuracy"],
        runtime=cost.runtime,
        hop_s=cost.hop_s,
        ms_per_hop=cost.ms,
        streams_per_core=cost.streams_per_core,
        claims=[verdict(claim, report) for claim in run.preset.claims],
        notes=run.notes,
        model=msgspec.convert(report["bundle"], MeasuredModel),
    )


def in_order(rows: Sequence[Row]) -> list[Row]:
    """Return rows by task, the task with most of them first, and in a task by macro-AUC."""
    tasks = [row.task for row in rows]
    return sorted(rows, key=lambda row: (-tasks.count(row.task), row.task, -(row.macro_auc or 0.0), row.preset))


def markdown(comparison: Comparison) -> str:
    """Write a comparison as Markdown: a table per task, then how to read it."""
    lines = ["# Presets compared", ""]
    for task, rows in groupby(comparison.rows, key=lambda row: row.task):
        of_task = list(rows)
        records = ", ".join(sorted({f"{row.n_records:,} records" for row in of_task}))
        lines += [f"## {task} ({records})", "", *_table(of_task), ""]
    lines += [
        f"- Not in the table: {', '.join(names)} ({why})." for why, names in _by_words(comparison.missing.items())
    ]
    noted = [(row.preset, note) for row in comparison.rows for note in row.notes]
    lines += [f"- {', '.join(names)}: {note}." for note, names in _by_words(noted)]
    lines += [*(f"- {note[0].upper()}{note[1:]}." for note in comparison.notes), ""]
    lines += [f"`{comparison.command}`, {comparison.date}, {comparison.data}", ""]
    return "\n".join(lines)


def notes_on(folds: Sequence[int], replicates: int, processor: str, busy: str | None) -> list[str]:
    """Return how the table is read."""
    named = f"fold{'s' if len(folds) > 1 else ''} {', '.join(map(str, folds))}"
    drawn = f"±: half the 95 % interval of {replicates:,} bootstrap replicates" if replicates else "no intervals"
    return [
        f"figures of whole records of {named}, which chose the weights: they flatter; {drawn}; compare within a task",
        "macro-AUC, macro-AP, F1 at 0.5: of the probabilities as the network gives them; AUC tuned, F1 tuned: of all "
        "classes calibrated in the light of each other and called at thresholds, both from one half of the patients "
        "for the other; accuracy: of networks that know one label a record",
        STATED,
        f"a hop's time: least CPU time of many runs for one stream by itself, on {processor}; streams per core follow"
        + (f"; {busy}" if busy else ""),
    ]


_COLUMNS: dict[str, Callable[[Row], str]] = {
    "preset": lambda row: row.preset,
    "parameters": lambda row: f"{row.parameters:,}",
    "MFLOPs": lambda row: f"{row.flops / 1e6:,.1f}",
    "epochs": lambda row: _epochs(row),
    "training": lambda row: ABSENT if row.training_s is None else f"{row.training_s:,.0f} s",
    "macro-AUC": lambda row: _auc(row),
    "macro-AP": lambda row: _share(row.macro_auprc),
    "AUC tuned": lambda row: _share(row.macro_auc_tuned, 4),
    "F1 at 0.5": lambda row: _share(row.macro_f1_at_half),
    "F1 tuned": lambda row: _share(row.macro_f1_tuned),
    "accuracy": lambda row: _share(row.accuracy),
    "ms per hop": lambda row: f"{row.ms_per_hop:.3g}",
    "streams per core": lambda row: f"{row.streams_per_core:,.0f}",
    "should reach": lambda row: "; ".join(map(_claim, row.claims)) or ABSENT,
}


def _table(rows: Sequence[Row]) -> Iterator[str]:
    """Lay rows out as Markdown whose columns stand below one another in a terminal, too."""
    cells = [[write(row) for write in _COLUMNS.values()] for row in rows]
    widths = [max(len(name), 3, *(len(line[k]) for line in cells)) for k, name in enumerate(_COLUMNS)]
    left = [name in ("preset", "should reach") for name in _COLUMNS]
    yield table_line(name.ljust(width) for name, width in zip(_COLUMNS, widths, strict=True))
    yield table_line(
        f":{'-' * (width - 1)}" if is_left else f"{'-' * (width - 1)}:"
        for width, is_left in zip(widths, left, strict=True)
    )
    for line in cells:
        yield table_line(
            cell.ljust(width) if is_left else cell.rjust(width)
            for cell, width, is_left in zip(line, widths, left, strict=True)
        )


def _by_words(said: Iterable[tuple[str, str]]) -> list[tuple[str, list[str]]]:
    """Return for each thing that is said of names which ones it is said of."""
    names: dict[str, list[str]] = {}
    for name, words in said:
        names.setdefault(words, []).append(name)
    return list(names.items())


def _epochs(row: Row) -> str:
    count = f"{row.epochs} of {row.epochs_planned}"
    if row.epochs >= row.epochs_planned:
        return count
    return f"{count}, stopped" if row.finished else f"{count}, to go on"


def _auc(row: Row) -> str:
    if row.macro_auc is None:
        return ABSENT
    interval = row.macro_auc_interval
    return f"{row.macro_auc:.4f}" + ("" if interval is None else f" ±{(interval[1] - interval[0]) / 2:.4f}")


def _share(value: float | None, digits: int = 3) -> str:
    return ABSENT if value is None else f"{value:.{digits}f}"


def _claim(held: Verdict) -> str:
    value = "not measured" if held.value is None else f"{held.value:.4f}"
    return f"{held.claim}: {'yes' if held.reached else 'no'} ({value})"
