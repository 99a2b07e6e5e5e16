"""Operating points for alerts: the soonest detection that a budget of false alerts allows, found and measured apart.

The budget is a rate of false alerts per stream-hour and class, which must hold on every kind of streams of healthy
hearts that is named. Among the candidates that keep it, the one is chosen with the lowest median delay, missed episodes
counted as never noticed; of equals the one that misses fewest, then the one with the lowest mean delay. What is
reported is measured on the half of the patients that did not choose, by the daemon's own decision code.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from edge.runtime.manifest import Manifest, OperatingPoint
from trainer.streams.alerts import Detection, FalseAlerts, Replayed, detection, policy_of, replay
from trainer.streams.plan import HALVES, HEALTHY_STREAMS, SWITCHES
from trainer.streams.search import Candidates, Outcome, candidates, try_all
from trainer.streams.traces import Streams

DEFAULT_BUDGET = 1.0
BUDGETS = (0.25, 0.5, 1.0, 2.0, 4.0, 8.0)
"""Those of the trade-off curve."""

At = tuple[int, int]


@dataclass(frozen=True)
class ClassAlertFigures:
    """What one class's alerts do on streams: false alerts by kind of streams, and detection."""

    false_alerts: dict[str, FalseAlerts]
    detection: Detection


@dataclass(frozen=True)
class TradeOff:
    """What one budget would give a class; cross-fitted, as everything that is reported."""

    budget_per_hour: float
    per_hour: dict[str, float]
    detected_share: float | None
    median_s: float | None
    median_of_all_s: float | None
    point: OperatingPoint
    """Chosen on all streams."""


@dataclass(frozen=True)
class AlertTuning:
    """Operating points of the classes that could be tuned, and what they do on streams that did not choose them."""

    budget_per_hour: float
    healthy_streams: list[str]
    stream_hours: dict[str, float]
    points: dict[str, OperatingPoint]
    crossfit: dict[str, ClassAlertFigures]
    trade_off: dict[str, list[TradeOff]]
    notes: list[str]


def tune_alerts(
    manifest: Manifest, streams: Streams, budget: float, kinds: Sequence[str] = HEALTHY_STREAMS
) -> AlertTuning:
    """Choose {on, off, dwell} of every class that alerts; calibration and F1 thresholds stay the manifest's.

    A class without an episode in one of the halves keeps what the manifest has, and is noted.
    """
    policy, grid = policy_of(manifest), candidates(manifest.hop_s)
    points: dict[str, OperatingPoint] = {}
    by_half: dict[int, dict[str, OperatingPoint]] = {half: dict(manifest.operating_points) for half in HALVES}
    trade_off, notes = {}, []
    for name in policy.alerting:
        f1 = manifest.operating_points[name].f1_threshold
        tried = try_all(streams.traces, name, policy, manifest.calibration, grid, streams.settings.patient_s)
        if set(tried.episode_half.tolist()) != set(HALVES):
            notes.append(f"{name} keeps its alert thresholds: it takes two patients or more who have it alone")
            continue
        table = _Table(streams, tried, grid)
        at, kept = table.choose(budget, kinds)
        points[name] = grid.point(at, f1)
        for half in HALVES:
            by_half[half][name] = grid.point(table.choose(budget, kinds, half)[0], f1)
        if not kept:
            notes.append(f"{name}: no threshold keeps to {budget:g} false alerts per hour; it has the highest")
        trade_off[name] = [table.trade_off(b, kinds, f1) for b in sorted({*BUDGETS, budget})]
    measured = measure_apart(manifest, streams, by_half)
    return AlertTuning(
        budget_per_hour=budget,
        healthy_streams=list(kinds),
        stream_hours={kind: sum(t.hours for t in streams.of(kind)) for kind in (*HEALTHY_STREAMS, SWITCHES)},
        points=points,
        crossfit={name: figures_of(measured, name) for name in points},
        trade_off=trade_off,
        notes=notes,
    )


def measure_apart(
    manifest: Manifest, streams: Streams, chosen_on: Mapping[int, Mapping[str, OperatingPoint]]
) -> Replayed:
    """Replay the streams of each half of the patients at the points that were chosen on the other half."""
    traces = [trace for half in HALVES for trace in streams.of(half=half)]
    policies = {half: policy_of(manifest, chosen_on[1 - half]) for half in HALVES}
    return Replayed(streams, traces, [replay(t, policies[t.plan.half], manifest.calibration) for t in traces])


def figures_of(replayed: Replayed, class_name: str) -> ClassAlertFigures:
    """Return one class's figures on replayed streams."""
    by_kind = {kind: replayed.false_alerts(class_name, kind) for kind in HEALTHY_STREAMS}
    return ClassAlertFigures(by_kind, replayed.detection(class_name))


@dataclass(frozen=True)
class _Table:
    """One class's candidates and what they do."""

    streams: Streams
    tried: Outcome
    grid: Candidates

    def choose(self, budget: float, kinds: Sequence[str], half: int | None = None) -> tuple[At, bool]:
        """Return the best candidate on all streams or one half's, and whether it keeps to the budget."""
        rate = np.max([self.tried.per_hour(kind, half) for kind in kinds], axis=0)  # (dwell, on)
        mine = np.ones(len(self.tried.episode_half), dtype=bool) if half is None else self.tried.episode_half == half
        delays_s = self.tried.delays_s[..., mine]
        never = np.where(np.isfinite(delays_s), delays_s, np.inf)
        median = np.quantile(never, 0.5, axis=-1, method="inverted_cdf")
        missed = np.isinf(never).mean(axis=-1)
        mean = np.minimum(never, self.streams.settings.patient_s).mean(axis=-1)
        order = np.lexsort([mean.ravel(), missed.ravel(), median.ravel(), np.maximum(rate, budget).ravel()])
        dwell, on = (int(i) for i in np.unravel_index(order[0], rate.shape))
        return (dwell, on), bool(rate[dwell, on] <= budget)

    def trade_off(self, budget: float, kinds: Sequence[str], f1_threshold: float) -> TradeOff:
        """Return what a budget gives on streams of the half that did not choose."""
        apart = {half: self.choose(budget, kinds, 1 - half)[0] for half in HALVES}
        delays = [self.tried.delays_s[apart[half]][self.tried.episode_half == half] for half in HALVES]
        seen = detection(np.concatenate(delays))
        return TradeOff(
            budget_per_hour=budget,
            per_hour={kind: self._rate_apart(kind, apart) for kind in HEALTHY_STREAMS},
            detected_share=None if seen.undetected_share is None else 1 - seen.undetected_share,
            median_s=seen.median_s,
            median_of_all_s=seen.median_of_all_s,
            point=self.grid.point(self.choose(budget, kinds)[0], f1_threshold),
        )

    def _rate_apart(self, kind: str, apart: Mapping[int, At]) -> float:
        counts = [self.tried.raises[apart[half]][self.tried.columns(kind, half)].sum() for half in HALVES]
        return float(sum(counts)) / sum(trace.hours for trace in self.streams.of(kind))
