"""A streaming evaluation as tables, for a terminal and for the model card."""

from __future__ import annotations

from collections.abc import Sequence

from trainer.bootstrap import Interval
from trainer.report import Sheet
from trainer.stream_evaluation.auc import Auc
from trainer.stream_evaluation.result import GroupRow, RobustnessRow, StreamEvaluation
from trainer.streams.report import ends_text, rate_text, seconds_text

Cell = str | float | int | None


def sheets_of(result: StreamEvaluation) -> dict[str, Sheet]:
    """Return a table for every part that was measured, by its name."""
    every = {
        "warm": _warm(result),
        "seconds": _seconds(result),
        "windows": _windows(result),
        "alerts": _alerts(result),
        "robustness": _robustness(result),
        "groups": _groups(result),
    }
    return {part: sheet for part, sheet in every.items() if sheet is not None}


def auc_text(auc: float | None, interval: Interval | None = None) -> str | None:
    """Write an AUC with the half width of its interval."""
    if auc is None:
        return None
    return f"{auc:.4f}" if interval is None else f"{auc:.4f} ±{(interval[1] - interval[0]) / 2:.4f}"


def difference_text(auc: Auc) -> str | None:
    """Write how far an AUC lies from the first, with the ends of its interval."""
    if auc.difference is None:
        return None
    text = f"{auc.difference:+.4f}"
    return text if auc.difference_interval is None else f"{text} ({ends_text(auc.difference_interval, '+.4f')})"


def minutes_text(minutes: float) -> str:
    """Write a time of other ECG in words."""
    if minutes == 0:
        return "cold"
    return f"{minutes:g} min" if minutes >= 1 else f"{60 * minutes:g} s"


def condition_text(row: RobustnessRow) -> str:
    """Write what was done to the records."""
    level = f"{row.level:g}"
    words = {
        "leads lost": f"{level} lead{'s' if row.level > 1 else ''} lost",
        "gap": f"gap of {level} s",
        "gain": f"gain ×{level}",
        "mains hum": f"hum, {level} {row.unit}" if row.level else "250 Hz device, no hum",
        "clean": "undisturbed",
    }
    return words.get(row.name, f"{row.name}, {level} {row.unit}")


def _warm(result: StreamEvaluation) -> Sheet | None:
    if result.warm is None:
        return None
    return Sheet(
        title="Macro-AUC at the 10th second of a record, by how much other ECG went before",
        columns=["before", "macro-AUC", "less cold", "relied on", *result.classes],
        rows=[
            [minutes_text(row.minutes), auc_text(row.auc.macro, row.auc.interval),
             difference_text(row.auc) if row.minutes else None, f"{row.ready_share:.1%}",
             *map(auc_text, row.auc.per_class.values())]
            for row in result.warm
        ],
        notes=(
            f"{result.n_records:,} records, each after one of {result.warm_streams} streams of other patients, "
            f"{result.joins} joins; {_interval_words(result)}"
        ),
    )  # fmt: skip


def _seconds(result: StreamEvaluation) -> Sheet | None:
    if result.seconds is None:
        return None
    return Sheet(
        title="Macro-AUC against seconds since a record began",
        columns=["seconds", "cold start", f"after {result.after_minutes:g} min of other ECG"],
        rows=[
            [f"{row.seconds:g}", auc_text(row.cold.macro), None if row.warm is None else auc_text(row.warm.macro)]
            for row in result.seconds
        ],
        notes="In the right column the window still holds other patients' ECG until the record fills it.",
    )


def _windows(result: StreamEvaluation) -> Sheet | None:
    if not result.windows:
        return None
    return Sheet(
        title="Macro-AUC on whole records, were the window served in another way",
        columns=["window", "hop", "votes", "macro-AUC", "less the first"],
        rows=[
            [f"{row.window_s:g} s", f"{row.hop_s:g} s",
             f"{row.votes} of {row.vote_s:g} s" if row.votes > 1 else "all at once",
             auc_text(row.auc.macro, row.auc.interval), difference_text(row.auc) if k else None]
            for k, row in enumerate(result.windows)
        ],
        notes=(
            "The first is what ships, each other one differs from it in one thing; the same weights, which learned "
            f"with the first, uncalibrated, from a cold start. {_interval_words(result)}"
        ),
    )  # fmt: skip


def _alerts(result: StreamEvaluation) -> Sheet | None:
    part = result.alerts
    if part is None:
        return None
    kinds = list(part.stream_hours)
    rows: list[list[Cell]] = []
    for name, of_class in part.per_class.items():
        point, seen = of_class.point, of_class.figures.detection
        rates = [rate_text(of_class.figures.false_alerts[kind]) for kind in kinds]
        found = None if seen.undetected_share is None else f"{1 - seen.undetected_share:.0%} of {seen.episodes}"
        rows.append([name, f"{point.on:.2f} / {point.off:.2f} / {point.dwell_s:g} s", *rates, found,
                     seconds_text(seen.median_s), seconds_text(seen.p95_s)])  # fmt: skip
    hours = ", ".join(f"{hours:.1f} h {kind}" for kind, hours in part.stream_hours.items())
    return Sheet(
        title="Alerts on streams with known switches",
        columns=["class", "on / off / dwell", *(f"{kind} per hour" for kind in kinds), "detected", "median", "95 %"],
        rows=rows,
        notes=(
            f"False alerts on {hours} of NORM alone, with exact 95 % Poisson intervals; restless: another patient "
            f"every 10 s, steady: every {part.patient_s:g} s. Delays from the switch from a NORM patient to one with "
            f"the class alone, who stays {part.patient_s:g} s: median and 95th percentile of the episodes detected."
        ),
    )  # fmt: skip


def _robustness(result: StreamEvaluation) -> Sheet | None:
    if result.robustness is None:
        return None
    return Sheet(
        title="Macro-AUC under noise, lost leads, gaps, hum and wrong gain",
        columns=["condition", "macro-AUC", "less undisturbed", "alerts decided"],
        rows=[
            [condition_text(row), auc_text(row.auc.macro, row.auc.interval),
             difference_text(row.auc) if k else None, f"{row.decided_share:.1%}"]
            for k, row in enumerate(result.robustness)
        ],
        notes=(
            f"{result.robustness[0].auc.records:,} records from a cold start. Noise: variance of each lead over the "
            "record to that of the noise. Alerts decided: share of the records whose signal quality lets class alerts "
            f"be decided at the end; for the others they freeze. {_interval_words(result)}"
        ),
    )  # fmt: skip


def groups_sheet(groups: Sequence[GroupRow], title: str, notes: str = "") -> Sheet:
    """Return figures by sex and age, groups below one another."""
    classes = list(groups[0].auc.per_class) if groups else []
    return Sheet(
        title=title,
        columns=["group", "records", "macro-AUC", *classes],
        rows=[
            [f"{row.by} {row.group}", row.auc.records, auc_text(row.auc.macro, row.auc.interval),
             *map(auc_text, row.auc.per_class.values())]
            for row in groups
        ],
        notes=notes,
    )  # fmt: skip


def _groups(result: StreamEvaluation) -> Sheet | None:
    if result.groups is None:
        return None
    title = f"Macro-AUC by sex and age, after {result.after_minutes:g} min of other ECG"
    return groups_sheet(result.groups, title, _interval_words(result))


def _interval_words(result: StreamEvaluation) -> str:
    if not result.replicates:
        return "no intervals"
    return f"95 % intervals of {result.replicates:,} bootstrap replicates over records"
