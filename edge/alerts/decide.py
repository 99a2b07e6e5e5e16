"""Class alerts of one stream: scores in, changes of conditions out. Stepped once per hop, knows no clock."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from operator import ge
from typing import NamedTuple

import msgspec
import numpy as np
from numpy.typing import NDArray

from edge.alerts.events import (
    SECOND_NS,
    AlertEvent,
    Model,
    Moment,
    Reason,
    State,
    Window,
    cleared,
    condition_id,
    expiry_ns,
)
from edge.alerts.policy import AlertPolicy, class_code
from edge.alerts.progress import ClassProgress, Progress
from edge.signal.quality import QualityReport


class _Hop(NamedTuple):
    """What one class is decided on."""

    moment: Moment
    class_name: str
    probability: float
    quality: float


class ClassAlerts:
    """The state machine of one device: hysteresis, dwell, refractory time, limits, freezing."""

    def __init__(self, device: str, node: str, model: Model, policy: AlertPolicy) -> None:
        self.device = device
        self.policy = policy
        self.open: dict[str, AlertEvent] = {}
        """The last event of every open condition, by class."""
        self.suppressed = 0
        """Raises held back by the limit, each counted once however long it waits."""
        self._node, self._model = node, model
        self._progress = Progress.begin(policy.alerting)

    def restore(self, conditions: Iterable[AlertEvent]) -> list[AlertEvent]:
        """Go on with conditions that were open before a restart, under their ids.

        Returns the clears of those that the policy no longer watches; technical conditions are passed over.
        """
        events = []
        for last in conditions:
            if last.kind != "class":
                continue
            if last.class_name in self._progress.classes:
                self.open[last.class_name] = last
            else:
                events.append(cleared(last, last.at, Reason.NOT_WATCHED))
        return events

    def step(
        self,
        moment: Moment,
        probabilities: Sequence[float] | NDArray[np.float64],
        quality: QualityReport,
        ready: bool,
    ) -> list[AlertEvent]:
        """Take the calibrated probabilities (classes,) of one hop; return what changes, in the order of the classes.

        While the stream is warming (not ready), the hop or too much of the window is bad, or a probability is not
        finite, conditions are frozen: none is raised or cleared, and no dwell time passes.
        """
        events = self._follow_session(moment)
        plain = np.asarray(probabilities, dtype=np.float64).tolist()
        trusted = self._is_window_good(quality.good) and ready and all(map(math.isfinite, plain))
        if trusted:
            self._forget_stale_dwell(moment)
        if trusted and self._nothing_stirs(plain):
            self._progress.last = moment.point
            return events
        for class_name, probability in zip(self.policy.classes, plain, strict=True):
            if class_name in self._progress.classes:
                hop = _Hop(moment, class_name, probability, quality.score)
                event = self._decide(hop) if trusted else self._stand_still(hop)
                events += [] if event is None else [event]
        self._progress.last = moment.point
        return events

    def end_foreign(self, session: str) -> list[AlertEvent]:
        """Close what belongs to another session: no condition crosses from one patient to the next."""
        foreign = [class_name for class_name, last in self.open.items() if last.session != session]
        return [self._close(class_name, Reason.SESSION_ENDED) for class_name in foreign]

    def keep(self, now_ns: int) -> list[AlertEvent]:
        """Keep open conditions from expiring while no hop comes that could decide on them; return their updates."""
        return [self._kept(name, now_ns) for name, last in tuple(self.open.items()) if self._is_old(last, now_ns)]

    def _is_old(self, last: AlertEvent, now_ns: int) -> bool:
        told_s = self.policy.expires_s - ((last.expires or now_ns) - now_ns) / SECOND_NS
        return not 0 <= told_s < self.policy.update_every_s

    def _kept(self, class_name: str, now_ns: int) -> AlertEvent:
        last = self.open[class_name]
        event = msgspec.structs.replace(
            last,
            revision=last.revision + 1,
            state=State.UPDATED,
            latency_ms=None,
            node=self._node,
            expires=expiry_ns(now_ns, self.policy.expires_s),
            reason=Reason.FROZEN,
        )
        self.open[class_name] = event
        return event

    def close_all(self, reason: Reason) -> list[AlertEvent]:
        """End every open condition, as at the end of a session or when the stream is given up."""
        for progress in self._progress.classes.values():
            progress.forget_dwell()
        return [self._close(class_name, reason) for class_name in tuple(self.open)]

    def to_state(self) -> dict[str, object]:
        """Return progress as plain data for a snapshot; open conditions are the alert store's to keep."""
        return self._progress.to_plain()

    def from_state(self, state: Mapping[str, object]) -> None:
        """Put back what `to_state` returned; raises StorageError when it cannot be read."""
        self._progress = Progress.from_plain(state, self.policy.alerting)

    def _follow_session(self, moment: Moment) -> list[AlertEvent]:
        events = self.end_foreign(moment.session)
        if self._progress.session != moment.session:
            self._progress = Progress.begin(self.policy.alerting, moment.session, self._progress)
        return events

    def _close(self, class_name: str, reason: Reason) -> AlertEvent:
        last, progress = self.open.pop(class_name), self._progress
        is_current = progress.last is not None and progress.session == last.session
        return cleared(last, progress.last if is_current and progress.last else last.at, reason)

    def _is_window_good(self, good: bool) -> bool:
        """Take note of the hop's quality; tell whether hop and window can be relied on."""
        bad_hops = [*self._progress.bad_hops, not good][-self.policy.window_hops :]
        self._progress.bad_hops = bad_hops
        return good and sum(bad_hops) <= self.policy.max_bad_share * self.policy.window_hops

    def _nothing_stirs(self, probabilities: Sequence[float]) -> bool:
        """Whether no condition is open, on its way, or begins: so it is for most streams at most hops."""
        return not (
            self.open
            or any(map(ge, probabilities, self.policy.raise_at))
            or any(progress.above or progress.below for progress in self._progress.classes.values())
        )

    def _forget_stale_dwell(self, moment: Moment) -> None:
        """Start dwell anew when this window shares nothing with the last active hop's: the two are not one run."""
        last, self._progress.last_active = self._progress.last_active, moment.index
        if last is None or not 0 < moment.index - last < self.policy.window_s * moment.rate_hz:
            for progress in self._progress.classes.values():
                progress.forget_dwell()

    def _decide(self, hop: _Hop) -> AlertEvent | None:
        progress, point = self._progress.classes[hop.class_name], self.policy.points[hop.class_name]
        last = self.open.get(hop.class_name)
        if last is None:
            return self._raise_if_due(hop, progress)
        progress.below = progress.below + 1 if hop.probability < point.off else 0
        if progress.below >= self.policy.dwell_hops(hop.class_name):
            return self._clear(hop, last, progress)
        if self._is_due(last, hop.moment) or self._has_moved(last, hop):
            return self._next(last, State.UPDATED, hop)
        return None

    def _raise_if_due(self, hop: _Hop, progress: ClassProgress) -> AlertEvent | None:
        if hop.probability < self.policy.points[hop.class_name].on:
            progress.forget_dwell()
            return None
        if progress.above == 0:
            progress.onset = hop.moment.point
        progress.above += 1
        if progress.above < self.policy.dwell_hops(hop.class_name) or self._is_refractory(progress, hop.moment):
            return None
        if progress.raises_in_last_hour(hop.moment.now_ns) >= self.policy.max_raises_per_hour:
            self.suppressed += not progress.held_back
            progress.held_back = True
            return None
        return self._raise(hop, progress)

    def _raise(self, hop: _Hop, progress: ClassProgress) -> AlertEvent:
        blank = self._blank(hop, progress)
        progress.raised_ns = [*progress.raised_ns, hop.moment.now_ns]
        progress.forget_dwell()
        return self._next(blank, State.RAISED, hop)

    def _clear(self, hop: _Hop, last: AlertEvent, progress: ClassProgress) -> AlertEvent:
        progress.forget_dwell()
        progress.cleared_at = hop.moment.index
        return self._next(last, State.CLEARED, hop)

    def _stand_still(self, hop: _Hop) -> AlertEvent | None:
        """Keep an open condition from expiring while nothing can be decided."""
        last = self.open.get(hop.class_name)
        if last is None or not self._is_due(last, hop.moment):
            return None
        event = self._next(last, State.UPDATED, hop)
        event = msgspec.structs.replace(event, probability=last.probability, reason=Reason.FROZEN)
        self.open[hop.class_name] = event
        return event

    def _blank(self, hop: _Hop, progress: ClassProgress) -> AlertEvent:
        """Return what stays the same over a condition's life; revision -1: nothing has been told of it yet."""
        moment, code = hop.moment, class_code(hop.class_name)
        onset = progress.onset or moment.point
        return AlertEvent(
            id=condition_id(self.device, moment.session, code, onset),
            revision=-1,
            device=self.device,
            session=moment.session,
            kind="class",
            class_name=hop.class_name,
            code=code,
            state=State.RAISED,
            priority=self.policy.priority(hop.class_name),
            onset=onset,
            at=moment.point,
            node=self._node,
        )

    def _next(self, last: AlertEvent, state: State, hop: _Hop) -> AlertEvent:
        """Return the next event of a condition and remember it as its last while the condition is open."""
        moment = hop.moment
        event = msgspec.structs.replace(
            last,
            revision=last.revision + 1,
            state=state,
            priority=self.policy.priority(hop.class_name),
            probability=hop.probability,
            threshold=self.policy.points[hop.class_name].on,
            at=moment.point,
            latency_ms=moment.latency_ms,
            quality=hop.quality,
            window=self._window(moment),
            model=self._model,
            node=self._node,
            expires=None if state is State.CLEARED else expiry_ns(moment.now_ns, self.policy.expires_s),
            reason=None,
        )
        self.open[hop.class_name] = event
        if state is State.CLEARED:
            del self.open[hop.class_name]
        return event

    def _is_due(self, last: AlertEvent, moment: Moment) -> bool:
        """Tell whether it is time for another `updated`; an index that went back means that it is."""
        return not 0 <= _since_s(last.at.i, moment) < self.policy.update_every_s

    def _has_moved(self, last: AlertEvent, hop: _Hop) -> bool:
        change = abs(hop.probability - (last.probability or 0.0))
        return change >= self.policy.update_change and _since_s(last.at.i, hop.moment) >= self.policy.update_pause_s

    def _is_refractory(self, progress: ClassProgress, moment: Moment) -> bool:
        at = progress.cleared_at
        return at is not None and 0 <= _since_s(at, moment) < self.policy.refractory_s

    def _window(self, moment: Moment) -> Window:
        return Window(max(0, moment.index + 1 - round(self.policy.window_s * moment.rate_hz)), moment.index)


def _since_s(index: int, moment: Moment) -> float:
    """Return seconds of signal since a sample."""
    return (moment.index - index) / moment.rate_hz
