"""What the daemon's own decision code makes of scored streams: false alerts, and how soon a change is noticed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.stats import chi2

from edge.alerts.decide import ClassAlerts
from edge.alerts.events import SECOND_NS, Model, Moment, State
from edge.alerts.policy import AlertPolicy
from edge.runtime.manifest import Calibration, Manifest, OperatingPoint
from edge.signal.quality import Issue, QualityReport
from trainer.bootstrap import LEVEL, Interval
from trainer.ptbxl import RATE_HZ
from trainer.streams.plan import RESTLESS, SWITCHES
from trainer.streams.traces import Streams, Trace

FloatArray = NDArray[np.float64]

GOOD, BAD = QualityReport(1.0, Issue.NONE, ()), QualityReport(0.0, Issue.NOISE, ())


@dataclass(frozen=True)
class Change:
    """A class was raised or cleared at the end of a hop."""

    hop: int
    class_name: str
    state: State


@dataclass(frozen=True)
class FalseAlerts:
    """Alerts of one class on streams of healthy hearts."""

    alerts: int
    hours: float
    per_hour: float
    interval: Interval
    """Exact Poisson interval of the rate. Passes over the same records count as one, since they are the same ECG."""
    open_share: float
    """Share of the time that an alert stands."""


@dataclass(frozen=True)
class Detection:
    """How one class's episodes were noticed. Delays are seconds from the switch, null when there are none to count."""

    episodes: int
    detected: int
    undetected_share: float | None
    already_open: int
    """Episodes that began while a false alert of their class was open: nobody is told anew, so they count as missed."""
    median_s: float | None
    p95_s: float | None
    median_of_all_s: float | None
    """With episodes that were missed counted as never noticed; null when half of them or more were."""


def policy_of(manifest: Manifest, points: Mapping[str, OperatingPoint] | None = None) -> AlertPolicy:
    """Return the daemon's policy without anything configured, with these operating points or the manifest's own."""
    return AlertPolicy(tuple(manifest.classes), points or manifest.operating_points, manifest.hop_s, manifest.window_s)


def replay(trace: Trace, policy: AlertPolicy, calibration: Calibration) -> list[Change]:
    """Step the daemon's state machine through one stream; return what it raised and cleared."""
    alerts = ClassAlerts("stream", "evaluation", Model("model", "0" * 64, "runtime"), policy)
    hop_samples, ready = round(trace.hop_s * RATE_HZ), trace.ready
    changes = []
    for hop, probabilities in enumerate(trace.probabilities(calibration)):
        end = (hop + 1) * hop_samples
        now_ns = end * SECOND_NS // RATE_HZ
        moment = Moment("stream", end - 1, RATE_HZ, now_ns, now_ns)
        events = alerts.step(moment, probabilities, GOOD if trace.good[hop] else BAD, bool(ready[hop]))
        changes += [Change(hop, e.class_name or "", e.state) for e in events if e.state is not State.UPDATED]
    return changes


@dataclass(frozen=True)
class Replayed:
    """Streams with what was raised and cleared on each."""

    streams: Streams
    traces: Sequence[Trace]
    changes: Sequence[list[Change]]

    def false_alerts(self, class_name: str, kind: str) -> FalseAlerts:
        """Count a class's alerts on streams of one kind of healthy hearts."""
        chosen = [k for k, trace in enumerate(self.traces) if trace.plan.kind == kind]
        of_class = [[c for c in self.changes[k] if c.class_name == class_name] for k in chosen]
        raised = sum(change.state is State.RAISED for changes in of_class for change in changes)
        hops = sum(len(self.traces[k].logits) for k in chosen)
        stood = sum(_open_hops(c, len(self.traces[k].logits)) for c, k in zip(of_class, chosen, strict=True))
        passes = self.streams.settings.passes if kind == RESTLESS else 1
        hours = sum(self.traces[k].hours for k in chosen)
        low, high = poisson_interval(raised / passes)
        return FalseAlerts(raised, hours, raised / hours, (low * passes / hours, high * passes / hours), stood / hops)

    def detection(self, class_name: str) -> Detection:
        """Measure how a class's episodes were noticed."""
        delays = [
            _delay_s(trace, self.changes[k], episode.turn, class_name, self.streams.settings.patient_s)
            for k, trace in enumerate(self.traces) if trace.plan.kind == SWITCHES
            for episode in trace.plan.episodes if episode.class_name == class_name
        ]  # fmt: skip
        return detection(np.array(delays))


def replay_all(manifest: Manifest, streams: Streams) -> Replayed:
    """Replay all streams at the manifest's own points, each from a start of its own."""
    policy = policy_of(manifest)
    return Replayed(streams, streams.traces, [replay(t, policy, manifest.calibration) for t in streams.traces])


def poisson_interval(events: float) -> Interval:
    """Return the exact interval of a Poisson mean of which so many events were seen (Garwood 1936)."""
    tail = (1 - LEVEL) / 2
    low = float(chi2.ppf(tail, 2 * events) / 2) if events > 0 else 0.0
    return low, float(chi2.ppf(1 - tail, 2 * (events + 1)) / 2)


def detection(delays_s: FloatArray) -> Detection:
    """Sum up delays (episodes,): infinite where one was missed, NaN where a false alert was open already."""
    episodes, found = len(delays_s), delays_s[np.isfinite(delays_s)]
    never = np.where(np.isfinite(delays_s), delays_s, np.inf)
    middle = float(np.quantile(never, 0.5, method="inverted_cdf")) if episodes else np.inf
    return Detection(
        episodes=episodes,
        detected=len(found),
        undetected_share=1 - len(found) / episodes if episodes else None,
        already_open=int(np.isnan(delays_s).sum()),
        median_s=float(np.median(found)) if len(found) else None,
        p95_s=float(np.quantile(found, 0.95)) if len(found) else None,
        median_of_all_s=middle if np.isfinite(middle) else None,
    )


def _open_hops(changes: Sequence[Change], hops: int) -> int:
    """Return for how many hops a class stood raised, from its changes in order."""
    total, since = 0, None
    for change in changes:
        if change.state is State.RAISED:
            since = change.hop
        elif since is not None:
            total, since = total + change.hop - since, None
    return total if since is None else total + hops - since


def _delay_s(trace: Trace, changes: Sequence[Change], turn: int, class_name: str, patient_s: float) -> float:
    begin = trace.hop_of_turn(turn)
    end = begin + round(patient_s / trace.hop_s)
    of_class = [change for change in changes if change.class_name == class_name]
    before = [change for change in of_class if change.hop < begin]
    if before and before[-1].state is State.RAISED:
        return np.nan
    raised = [change.hop for change in of_class if begin <= change.hop < end and change.state is State.RAISED]
    return (raised[0] + 1 - begin) * trace.hop_s if raised else np.inf
