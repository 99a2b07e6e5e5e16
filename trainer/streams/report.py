"""What alert tuning found, as tables and as trade-off curves."""

from __future__ import annotations

from itertools import cycle
from pathlib import Path

from matplotlib.figure import Figure

from trainer.bootstrap import Interval
from trainer.plots import COLOURS, log_x
from trainer.report import Sheet
from trainer.streams.alerts import FalseAlerts
from trainer.streams.plan import HEALTHY_STREAMS
from trainer.streams.tune import AlertTuning

DPI = 80
NAME = "trade_off.png"


def alert_sheets(tuning: AlertTuning) -> list[Sheet]:
    """Return the chosen operating points with their cross-fitted figures, and the trade-off curve."""
    hours = ", ".join(f"{hours:.1f} h {kind}" for kind, hours in tuning.stream_hours.items())
    held = " and ".join(tuning.healthy_streams)
    return [
        Sheet(
            title=f"Alert thresholds for {budget_text(tuning.budget_per_hour)} per stream-hour and class",
            columns=["class", "on", "off", "dwell", *(f"{kind} per hour" for kind in HEALTHY_STREAMS), "detected",
                     "median", "95 %"],
            rows=[
                [name, f"{point.on:.3f}", f"{point.off:.3f}", f"{point.dwell_s:g} s",
                 *(rate_text(tuning.crossfit[name].false_alerts[kind]) for kind in HEALTHY_STREAMS),
                 share_text(1 - (tuning.crossfit[name].detection.undetected_share or 0.0)),
                 seconds_text(tuning.crossfit[name].detection.median_s),
                 seconds_text(tuning.crossfit[name].detection.p95_s)]
                for name, point in tuning.points.items()
            ],
            notes="Cross-fitted: false alerts and delays of every stream at thresholds that the other half of the "
            f"patients chose. Streams: {hours}; the budget holds on {held} ones. Delays of the episodes that were "
            "detected: their median and 95th percentile.",
        ),
        Sheet(
            title="What a budget of false alerts buys",
            columns=["class", "budget", *(f"{kind} per hour" for kind in HEALTHY_STREAMS), "detected", "median", "on",
                     "dwell"],
            rows=[
                [name, f"{row.budget_per_hour:g}", *(f"{row.per_hour[kind]:.2f}" for kind in HEALTHY_STREAMS),
                 share_text(row.detected_share), seconds_text(row.median_s), f"{row.point.on:.3f}",
                 f"{row.point.dwell_s:g} s"]
                for name, curve in tuning.trade_off.items() for row in curve
            ],
            notes="Measured on the half of the patients that did not choose; thresholds are what all would choose.",
        ),
    ]  # fmt: skip


def write_trade_off(directory: Path, tuning: AlertTuning) -> Path:
    """Plot share and delay of detection against the budget, a curve per class; return the PNG's path."""
    directory.mkdir(parents=True, exist_ok=True)
    figure = Figure(figsize=(9.0, 3.8), layout="constrained")
    shares, delays = figure.subplots(1, 2)
    for (name, curve), colour in zip(tuning.trade_off.items(), cycle(COLOURS), strict=False):
        budgets = [row.budget_per_hour for row in curve]
        shares.plot(budgets, [_or_nan(row.detected_share) for row in curve], "o-", color=colour, label=name)
        delays.plot(budgets, [_or_nan(row.median_s) for row in curve], "o-", color=colour, label=name)
    for axes, label in ((shares, "share of episodes detected"), (delays, "median delay when detected, s")):
        axes.axvline(tuning.budget_per_hour, color="0.6", linestyle="--", linewidth=1)
        axes.set(xlabel="budget: false alerts per stream-hour and class", ylabel=label)
        log_x(axes, sorted({row.budget_per_hour for curve in tuning.trade_off.values() for row in curve}))
        axes.set_ylim(bottom=0)
        axes.grid(color="0.92")
    shares.legend(fontsize=8)
    figure.savefig(directory / NAME, dpi=DPI, format="png")
    return directory / NAME


def rate_text(alerts: FalseAlerts) -> str:
    """Write a rate of false alerts with its interval."""
    return f"{alerts.per_hour:.2f} ({ends_text(alerts.interval, '.2f')})"


def seconds_text(seconds: float | None) -> str | None:
    """Write a delay."""
    return None if seconds is None else f"{seconds:.3g} s"


def ends_text(interval: Interval, digits: str) -> str:
    """Write an interval from end to end."""
    return f"{interval[0]:{digits}} to {interval[1]:{digits}}"


def budget_text(per_hour: float) -> str:
    """Write how many false alerts are allowed."""
    return f"at most {per_hour:g} false alert{'' if per_hour == 1 else 's'}"


def share_text(share: float | None) -> str | None:
    """Write a share in whole percent."""
    return None if share is None else f"{share:.0%}"


def _or_nan(value: float | None) -> float:
    return float("nan") if value is None else value
