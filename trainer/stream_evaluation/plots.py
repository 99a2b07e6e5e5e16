"""Plots of a streaming evaluation, drawn from its result alone: one page, and a small file per panel for a card."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import cycle
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from trainer.folds import folds_text
from trainer.plots import COLOURS, log_x
from trainer.stream_evaluation.result import RobustnessRow, StreamEvaluation
from trainer.stream_evaluation.sheets import condition_text, minutes_text
from trainer.streams.alerts import Detection
from trainer.streams.curve import CurvePoint

PAGE_DPI, PANEL_DPI = 110, 80
PAGE_COLUMNS = 3
PANEL_INCHES = (6.0, 3.8)
PAGE_NAME = "streaming.png"
NOISE_UNIT = "dB"

RATES_PER_HOUR = (0.1, 0.3, 1.0, 3.0, 10.0, 30.0)
RATE_LABEL = "false alerts per stream-hour, on the worse kind of streams"

Panel = Callable[[Axes, StreamEvaluation], None]


def write_stream_plots(directory: Path, result: StreamEvaluation, page: bool = True) -> list[Path]:
    """Write a PNG per part that was measured, and one page with all, into a directory; return their paths."""
    directory.mkdir(parents=True, exist_ok=True)
    panels = _panels(result)
    paths = []
    for name, draw in panels.items():
        figure = Figure(figsize=PANEL_INCHES, layout="constrained")
        draw(figure.add_subplot(), result)
        paths.append(_save(figure, directory / f"{name}.png", PANEL_DPI))
    if page and panels:
        paths.append(_save(_page(result, list(panels.values())), directory / PAGE_NAME, PAGE_DPI))
    return paths


def _panels(result: StreamEvaluation) -> dict[str, Panel]:
    every: dict[str, tuple[object, Panel]] = {
        "warm": (result.warm, _warm),
        "seconds": (result.seconds, _seconds),
        "delays": (result.alerts, _delays),
        "false_alerts": (result.alerts, _false_alerts),
        "trade_off_detected": (result.alerts, _trade_off_detected),
        "trade_off_delay": (result.alerts, _trade_off_delay),
        "noise": (_noise_rows(result), _noise),
        "robustness": (_other_rows(result), _others),
        "groups": (result.groups, _groups),
    }
    return {name: draw for name, (measured, draw) in every.items() if measured}


def _page(result: StreamEvaluation, panels: Sequence[Panel]) -> Figure:
    lines = -(-len(panels) // PAGE_COLUMNS)
    width, height = PANEL_INCHES
    figure = Figure(figsize=(PAGE_COLUMNS * width, lines * height + 0.5), layout="constrained")
    folds = f"fold {folds_text(result.folds)}"
    figure.suptitle(f"{result.bundle.name} {result.bundle.version} on streams; {folds}, {result.date}")
    for k, draw in enumerate(panels):
        draw(figure.add_subplot(lines, PAGE_COLUMNS, k + 1), result)
    return figure


def _warm(axes: Axes, result: StreamEvaluation) -> None:
    rows = result.warm or []
    places = range(len(rows))
    for name, colour in zip(result.classes, cycle(COLOURS), strict=False):
        axes.plot(places, [_or_nan(row.auc.per_class[name]) for row in rows], color=colour, alpha=0.6, label=name)
    known = [(k, row.auc) for k, row in enumerate(rows) if row.auc.macro is not None]
    axes.plot([k for k, _ in known], [_or_nan(auc.macro) for _, auc in known], "o-", color="black", label="macro")
    for k, auc in known:
        if auc.interval is not None:
            axes.vlines(k, *auc.interval, color="black", linewidth=1)
    axes.set_xticks(list(places), [minutes_text(row.minutes) for row in rows])
    _finish(axes, "other patients' ECG before the record", "ROC-AUC at second 10", "AUC on a warm stream", legend=False)
    axes.legend(fontsize=8, loc="center left", bbox_to_anchor=(1.01, 0.5))


def _seconds(axes: Axes, result: StreamEvaluation) -> None:
    rows = result.seconds or []
    at = [row.seconds for row in rows]
    axes.plot(at, [_or_nan(row.cold.macro) for row in rows], "o-", color=COLOURS[0], label="cold start")
    if any(row.warm is not None for row in rows):
        warm = [_or_nan(row.warm.macro if row.warm else None) for row in rows]
        axes.plot(at, warm, "s-", color=COLOURS[1], label=f"after {result.after_minutes:g} min of other ECG")
    _finish(axes, "seconds since the record began", "macro-AUC", "How soon a record is known")


def _delays(axes: Axes, result: StreamEvaluation) -> None:
    assert result.alerts is not None
    for k, of_class in enumerate(result.alerts.per_class.values()):
        seen, colour = of_class.figures.detection, COLOURS[k % len(COLOURS)]
        median_s, p95_s = seen.median_s or 0.0, seen.p95_s or 0.0
        axes.barh(k, p95_s, color=colour, alpha=0.35, height=0.6)
        axes.barh(k, median_s, color=colour, height=0.6)
        share = "none of 0" if seen.undetected_share is None else f"{1 - seen.undetected_share:.0%} of {seen.episodes}"
        axes.annotate(f"{share} detected", (p95_s, k), (4, 0), textcoords="offset points",
                      va="center", fontsize=8)  # fmt: skip
    axes.margins(x=0.4)
    axes.set_xlim(left=0)
    _class_ticks(axes, result)
    _finish(axes, "seconds from switch to alert: median, 95th percentile", "", "Detection delay", legend=False)


def _false_alerts(axes: Axes, result: StreamEvaluation) -> None:
    assert result.alerts is not None
    part = result.alerts
    for offset, (kind, colour) in enumerate(zip(part.stream_hours, COLOURS, strict=False)):
        rates = [of_class.figures.false_alerts[kind] for of_class in part.per_class.values()]
        at = [k + 0.2 * (2 * offset - 1) for k in range(len(rates))]
        axes.plot([rate.per_hour for rate in rates], at, "o", color=colour, label=kind)
        for k, rate in zip(at, rates, strict=True):
            axes.hlines(k, *rate.interval, color=colour, linewidth=1.5)
    _class_ticks(axes, result)
    axes.set_xlim(right=1.3 * axes.get_xlim()[1])  # room for the legend
    _finish(axes, "false alerts per stream-hour (95 % Poisson)", "", "False alerts on healthy hearts")


def _trade_off_detected(axes: Axes, result: StreamEvaluation) -> None:
    def detected(seen: CurvePoint | Detection) -> float | None:
        if isinstance(seen, CurvePoint):
            return seen.detected_share
        return None if seen.undetected_share is None else 1 - seen.undetected_share

    _trade_off(axes, result, detected)
    axes.set_ylim(-0.02, 1.02)
    _finish(axes, RATE_LABEL, "share of episodes detected", "Detection against false alerts, and where the bundle is")


def _trade_off_delay(axes: Axes, result: StreamEvaluation) -> None:
    _trade_off(axes, result, lambda seen: seen.median_s)
    axes.set_ylim(bottom=0)
    _finish(axes, RATE_LABEL, "median delay when detected, s", "Delay against false alerts, and where the bundle is")


def _trade_off(axes: Axes, result: StreamEvaluation, value: Callable[[CurvePoint | Detection], float | None]) -> None:
    """Draw a curve per class against false alerts, on the kind of streams that has more, and its own point on it."""
    assert result.alerts is not None
    floor = 0.5 / max(result.alerts.stream_hours.values())
    for (name, of_class), colour in zip(result.alerts.per_class.items(), cycle(COLOURS), strict=False):
        rates = [max(floor, *point.per_hour.values()) for point in of_class.curve]
        axes.plot(rates, [_or_nan(value(point)) for point in of_class.curve], color=colour, label=name)
        own = max(floor, *(rate.per_hour for rate in of_class.figures.false_alerts.values()))
        axes.plot(own, _or_nan(value(of_class.figures.detection)), "o", color=colour, markeredgecolor="black")
    log_x(axes, RATES_PER_HOUR)
    axes.set_xlim(floor, RATES_PER_HOUR[-1])


def _noise(axes: Axes, result: StreamEvaluation) -> None:
    rows = _noise_rows(result)
    decided = axes.twinx()
    decided.set(ylabel="share of records with alerts decided (dotted)", ylim=(-0.02, 1.02))
    for k, (name, colour) in enumerate(zip(dict.fromkeys(row.name for row in rows), COLOURS, strict=False)):
        mine = [row for row in rows if row.name == name]
        snrs_db = [row.level + 0.25 * (k - 1) for row in mine]  # side by side, so that intervals can be told apart
        axes.plot(snrs_db, [_or_nan(row.auc.difference) for row in mine], "o-", color=colour, label=name)
        for snr_db, row in zip(snrs_db, mine, strict=True):
            if row.auc.difference_interval is not None:
                axes.vlines(snr_db, *row.auc.difference_interval, color=colour, linewidth=1)
        decided.plot([row.level for row in mine], [row.decided_share for row in mine], ":", color=colour)
    axes.axhline(0.0, color="0.6", linestyle="--", linewidth=1)
    axes.set_xticks(sorted({row.level for row in rows}))
    axes.invert_xaxis()
    _finish(axes, "signal to noise, dB", "macro-AUC less undisturbed", "Noise")


def _others(axes: Axes, result: StreamEvaluation) -> None:
    rows = _other_rows(result)
    for k, row in enumerate(rows):
        axes.plot(_or_nan(row.auc.difference), k, "o", color=COLOURS[0])
        if row.auc.difference_interval is not None:
            axes.hlines(k, *row.auc.difference_interval, color=COLOURS[0], linewidth=1.5)
    axes.axvline(0.0, color="0.6", linestyle="--", linewidth=1)
    axes.set_yticks(range(len(rows)), [condition_text(row) for row in rows], fontsize=8)
    axes.invert_yaxis()
    _finish(axes, "macro-AUC less undisturbed", "", "Lost leads, gaps, gain, hum", legend=False)


def _groups(axes: Axes, result: StreamEvaluation) -> None:
    rows = result.groups or []
    for k, row in enumerate(rows):
        axes.plot(_or_nan(row.auc.macro), k, "o", color=COLOURS[2])
        if row.auc.interval is not None:
            axes.hlines(k, *row.auc.interval, color=COLOURS[2], linewidth=1.5)
    axes.set_yticks(range(len(rows)), [f"{row.group} ({row.auc.records:,})" for row in rows])
    axes.invert_yaxis()
    _finish(axes, "macro-AUC", "", "Groups", legend=False)


def _class_ticks(axes: Axes, result: StreamEvaluation) -> None:
    """Name the classes that alert from top to bottom."""
    names = list(result.alerts.per_class) if result.alerts is not None else []
    axes.set_yticks(range(len(names)), names)
    axes.invert_yaxis()


def _noise_rows(result: StreamEvaluation) -> list[RobustnessRow]:
    return [row for row in result.robustness or [] if row.unit == NOISE_UNIT]


def _other_rows(result: StreamEvaluation) -> list[RobustnessRow]:
    return [row for row in (result.robustness or [])[1:] if row.unit != NOISE_UNIT]


def _finish(axes: Axes, x_label: str, y_label: str, title: str, legend: bool = True) -> None:
    axes.set(xlabel=x_label, ylabel=y_label, title=title)
    axes.grid(color="0.92")
    axes.set_axisbelow(True)
    if legend:
        axes.legend(fontsize=8)


def _or_nan(value: float | None) -> float:
    return float("nan") if value is None else value


def _save(figure: Figure, path: Path, dpi: int) -> Path:
    figure.savefig(path, dpi=dpi, format="png")
    return path
