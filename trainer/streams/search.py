"""What every candidate operating point of a class would do on scored streams, all candidates at once.

The rules are those of `edge.alerts.decide` in arrays: hysteresis, dwell, refractory time, freezing. Only the limit on
raises per hour is left out, which no candidate worth having meets. A test holds the two against one another; what is
reported of the chosen point comes from the daemon's own code (`trainer.streams.alerts`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.special import expit, logit

from edge.alerts.policy import AlertPolicy
from edge.runtime.manifest import Calibration, OperatingPoint
from trainer.streams.traces import Trace

FloatArray = NDArray[np.float64]
BoolArray = NDArray[np.bool_]

DIGITS = 6
ON_LOGITS = np.linspace(-3.0, 5.0, 81)
"""`on` from 0.05 to 0.993 in steps of a tenth of a logit."""
HYSTERESIS_LOGITS = 0.5
"""How far below `on` the `off` threshold lies: 0.50 → 0.38, 0.80 → 0.71. On fold 9 neither 1 nor 2 did better."""
DWELLS_S = (1.0, 2.0, 3.0, 4.0, 5.0)
"""Up to half a record: in restless streams nobody stays for long, so that a long dwell would cost nothing there."""


@dataclass(frozen=True)
class Candidates:
    """Operating points as a grid: (dwell, on); `off` goes with `on`."""

    on: FloatArray  # (on,)
    off: FloatArray  # (on,)
    dwell_s: Sequence[float]

    def point(self, at: tuple[int, int], f1_threshold: float) -> OperatingPoint:
        """Return one of them as the manifest states it."""
        dwell, on = at
        return OperatingPoint(f1_threshold, float(self.on[on]), float(self.off[on]), float(self.dwell_s[dwell]))


@dataclass(frozen=True)
class Outcome:
    """What the candidates of one class do on some streams."""

    raises: NDArray[np.int32]  # (dwell, on, streams)
    delays_s: NDArray[np.float64]  # (dwell, on, episodes) infinite where missed, NaN where an alert was open before
    episode_half: NDArray[np.int64]  # (episodes,)
    traces: Sequence[Trace]

    def per_hour(self, kind: str, half: int | None = None) -> FloatArray:
        """Return raises per stream-hour of every candidate, (dwell, on), on streams of one kind, all or one half's."""
        mine = self.columns(kind, half)
        hours = sum(trace.hours for trace, is_mine in zip(self.traces, mine, strict=True) if is_mine)
        return np.asarray(self.raises[..., mine].sum(axis=-1) / hours)

    def columns(self, kind: str, half: int | None = None) -> BoolArray:
        """Return which streams are of a kind and, where one is named, of a half of the patients, (streams,)."""
        return np.array([t.plan.kind == kind and half in (None, t.plan.half) for t in self.traces])


def off_below(on: FloatArray) -> FloatArray:
    """Return the `off` thresholds that go with `on` thresholds."""
    return np.round(expit(logit(on) - HYSTERESIS_LOGITS), DIGITS)


def candidates(hop_s: float) -> Candidates:
    """Return the grid that is searched; dwell times that are not whole hops would repeat others and are left out."""
    dwells = [dwell for dwell in DWELLS_S if abs(dwell / hop_s - round(dwell / hop_s)) < 1e-9]
    on = np.round(expit(ON_LOGITS), DIGITS)
    return Candidates(on, off_below(on), dwells or [max(DWELLS_S[-1], hop_s)])


def try_all(
    traces: Sequence[Trace], class_name: str, policy: AlertPolicy, calibration: Calibration, grid: Candidates,
    patient_s: float,
) -> Outcome:  # fmt: skip
    """Run every candidate of one class on every stream."""
    side = _SideBySide.of(traces, policy.classes.index(class_name), policy, calibration)
    episodes = [
        (row, trace.hop_of_turn(e.turn), trace.plan.half) for row, trace in enumerate(traces)
        for e in trace.plan.episodes if e.class_name == class_name
    ]  # fmt: skip
    state = _State.begin(grid, len(traces), policy)
    raises = np.zeros(state.is_open.shape, dtype=np.int32)
    delays_s = np.full((*raises.shape[:2], len(episodes)), np.inf)
    length = round(patient_s / policy.hop_s)
    for hop in range(side.hops):
        for e, (row, begin, _) in enumerate(episodes):
            if begin == hop:
                delays_s[..., e][state.is_open[..., row]] = np.nan
        raised = state.step(hop, side.probabilities[hop], side.trusted[hop], side.anew[hop])
        raises += raised
        for e, (row, begin, _) in enumerate(episodes):
            if begin <= hop < begin + length:
                first = raised[..., row] & np.isposinf(delays_s[..., e])
                delays_s[..., e][first] = (hop + 1 - begin) * policy.hop_s
    return Outcome(raises, delays_s, np.array([half for *_, half in episodes], dtype=np.int64), traces)


def trusted_hops(trace: Trace, policy: AlertPolicy) -> tuple[BoolArray, BoolArray]:
    """Return when decisions are made, and at which of those the dwell begins anew, both (hops,)."""
    bad = np.concatenate([np.zeros(policy.window_hops - 1), ~trace.good])
    bad_in_window = np.convolve(bad, np.ones(policy.window_hops), mode="valid")
    finite = np.isfinite(trace.logits).all(axis=1)
    trusted = trace.good & (bad_in_window <= policy.max_bad_share * policy.window_hops) & trace.ready & finite
    active = np.flatnonzero(trusted)
    anew = np.zeros(len(trusted), dtype=bool)
    anew[active[np.flatnonzero(np.diff(active, prepend=-policy.window_hops) >= policy.window_hops)]] = True
    return trusted, anew


@dataclass
class _State:
    """Where every candidate stands on every stream, all (dwell, on, streams)."""

    grid: Candidates
    dwell_hops: NDArray[np.int16]  # (dwell, 1, 1)
    refractory_hops: int
    is_open: BoolArray
    count: NDArray[np.int16]
    """Hops in a row that ask for a change: at or above `on` while closed, below `off` while open."""
    again_from: NDArray[np.int32]
    """The first hop at which a class may be raised again."""

    @classmethod
    def begin(cls, grid: Candidates, streams: int, policy: AlertPolicy) -> _State:
        shape = (len(grid.dwell_s), len(grid.on), streams)
        return cls(
            grid=grid,
            dwell_hops=np.array([_whole_hops(d, policy.hop_s) for d in grid.dwell_s], dtype=np.int16)[:, None, None],
            refractory_hops=_whole_hops(policy.refractory_s, policy.hop_s),
            is_open=np.zeros(shape, dtype=bool),
            count=np.zeros(shape, dtype=np.int16),
            again_from=np.zeros(shape, dtype=np.int32),
        )

    def step(self, hop: int, probabilities: FloatArray, trusted: BoolArray, anew: BoolArray) -> BoolArray:
        """Take the next hop of every stream, each (streams,); return where a class is raised."""
        asked = np.where(self.is_open, probabilities < self.grid.off[:, None], probabilities >= self.grid.on[:, None])
        self.count *= ~anew
        self.count = np.where(trusted, (self.count + 1) * asked, self.count).astype(np.int16)
        change = (self.count >= self.dwell_hops) & trusted & (self.is_open | (self.again_from <= hop))
        raised = change & ~self.is_open
        self.again_from[change & self.is_open] = hop + self.refractory_hops
        self.is_open ^= change
        self.count *= ~change
        return np.asarray(raised)


@dataclass(frozen=True)
class _SideBySide:
    """Streams next to one another; where one has ended nothing is decided."""

    probabilities: FloatArray  # (hops, streams)
    trusted: BoolArray  # (hops, streams)
    anew: BoolArray  # (hops, streams)
    hops: int

    @classmethod
    def of(cls, traces: Sequence[Trace], k: int, policy: AlertPolicy, calibration: Calibration) -> _SideBySide:
        hops = max((len(trace.logits) for trace in traces), default=0)
        p, trusted, anew = (np.zeros((hops, len(traces)), dtype=kind) for kind in (np.float64, bool, bool))
        for row, trace in enumerate(traces):
            length = len(trace.logits)
            p[:length, row] = trace.probabilities(calibration)[:, k]
            trusted[:length, row], anew[:length, row] = trusted_hops(trace, policy)
        return cls(p, trusted, anew, hops)


def _whole_hops(seconds: float, hop_s: float) -> int:
    return max(1, -int(-(seconds / hop_s - 1e-9) // 1))
