"""Technical conditions of one stream: what is wrong with the signal or its handling, not with the patient.

They never latch: each is raised after it has lasted a little and cleared after it has been gone a little. What counts
as present is told from outside, per hop (signal) and per poll (stream).
"""

from __future__ import annotations

from collections import deque
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from enum import Enum

import msgspec

from edge.alerts.events import (
    HOUR_NS,
    AlertEvent,
    Moment,
    Point,
    Priority,
    Reason,
    State,
    cleared,
    condition_id,
    expiry_ns,
)
from edge.signal.quality import Issue


class TechnicalCode(str, Enum):
    """All technical conditions; the value is the last level of the alert's topic."""

    LEAD_OFF = "lead_off"
    FLAT_LINE = "flat_line"
    SATURATION = "saturation"
    NOISE = "noise"
    EINTHOVEN = "einthoven"
    GAP = "gap"
    MODEL_STATE = "model_state"
    STREAM_SILENT = "stream_silent"
    OVERLOAD = "overload"
    UNFIT_LEADS = "unfit_leads"


STREAM_CODES = frozenset({TechnicalCode.STREAM_SILENT, TechnicalCode.OVERLOAD, TechnicalCode.UNFIT_LEADS})
"""Known without a hop; the other codes are fed by hops."""

SIGNAL_CODES = frozenset(TechnicalCode) - STREAM_CODES
WITHOUT_SIGNAL = frozenset({TechnicalCode.STREAM_SILENT, TechnicalCode.UNFIT_LEADS})
"""While one of these stands, no hop comes that could clear a signal condition."""

NO_CODES: frozenset[TechnicalCode] = frozenset()

_CODE_OF_ISSUE = {
    Issue.LEAD_OFF: TechnicalCode.LEAD_OFF,
    Issue.MISSING: TechnicalCode.GAP,
    Issue.FLAT: TechnicalCode.FLAT_LINE,
    Issue.SATURATED: TechnicalCode.SATURATION,
    Issue.NOISE: TechnicalCode.NOISE,
    Issue.EINTHOVEN: TechnicalCode.EINTHOVEN,
}


@dataclass(frozen=True)
class Persistence:
    """How long a condition must last, and be gone, in seconds, and how urgent it is (a judgement: see `RULES`)."""

    raise_after_s: float
    clear_after_s: float
    priority: Priority


RULES: Mapping[TechnicalCode, Persistence] = {
    TechnicalCode.LEAD_OFF: Persistence(2.0, 2.0, Priority.MEDIUM),
    TechnicalCode.FLAT_LINE: Persistence(4.0, 2.0, Priority.MEDIUM),
    TechnicalCode.SATURATION: Persistence(3.0, 3.0, Priority.LOW),
    TechnicalCode.NOISE: Persistence(5.0, 5.0, Priority.LOW),
    TechnicalCode.EINTHOVEN: Persistence(5.0, 5.0, Priority.LOW),
    TechnicalCode.GAP: Persistence(0.0, 30.0, Priority.LOW),
    TechnicalCode.MODEL_STATE: Persistence(0.0, 30.0, Priority.MEDIUM),
    TechnicalCode.STREAM_SILENT: Persistence(0.0, 0.0, Priority.MEDIUM),
    TechnicalCode.OVERLOAD: Persistence(0.0, 30.0, Priority.MEDIUM),
    TechnicalCode.UNFIT_LEADS: Persistence(0.0, 0.0, Priority.MEDIUM),
}
"""What blinds the monitor is MEDIUM, what only makes it doubtful is LOW. Moments (a gap, an overload) stand for 30 s:
a row of them is one condition."""


def codes_of(issues: Issue) -> frozenset[TechnicalCode]:
    """Return the conditions that a hop's issues stand for."""
    if issues is Issue.NONE:
        return NO_CODES
    return frozenset(code for issue, code in _CODE_OF_ISSUE.items() if issue & issues)


FREE_RAISES = 3
REMEMBERED_RAISES = 16
HELD_S = 60.0
"""From so many raises of a condition within an hour on each doubles how long it must be gone, up to so long: a contact
that comes and goes is one condition that stands, not an alarm every few seconds."""


@dataclass
class _Track:
    """One code's recent past."""

    present_s: float = 0.0
    absent_s: float = 0.0
    since_event_s: float = 0.0
    onset: Point | None = None
    last: AlertEvent | None = None
    """The last event while the condition is open."""


class TechnicalAlerts:
    """The technical conditions of one device."""

    def __init__(
        self,
        device: str,
        node: str,
        rules: Mapping[TechnicalCode, Persistence] = RULES,
        update_every_s: float = 30.0,
        expires_s: float = 120.0,
    ) -> None:
        self.device = device
        self._node = node
        self._rules = rules
        self._update_every_s, self._expires_s = update_every_s, expires_s
        self._tracks: dict[TechnicalCode, _Track] = {}
        """Of codes that are open or have begun to last: nothing happens to the others while they are absent."""
        self._raised_ns: dict[TechnicalCode, deque[int]] = {}
        """UTC of each code's last raises."""

    @property
    def open(self) -> dict[TechnicalCode, AlertEvent]:
        """The last event of every open condition."""
        return {code: track.last for code, track in self._tracks.items() if track.last is not None}

    def adopt(self, update_every_s: float, expires_s: float) -> None:
        """Follow changed settings from the next look on."""
        self._update_every_s, self._expires_s = update_every_s, expires_s

    def restore(self, conditions: Iterable[AlertEvent]) -> list[AlertEvent]:
        """Go on with conditions that were open before a restart; return clears of those no longer known."""
        known = {code.value: code for code in TechnicalCode}
        events = []
        for last in conditions:
            if last.kind != "technical":
                continue
            if last.code in known:
                self._tracks[known[last.code]] = _Track(last=last)
            else:
                events.append(cleared(last, last.at, Reason.NOT_WATCHED))
        return events

    def observe_hop(
        self, moment: Moment, present: Collection[TechnicalCode], hop_s: float, quality: float | None = None
    ) -> list[AlertEvent]:
        """Take the signal conditions of one hop, of `hop_s` seconds; return what changes."""
        return self._observe(SIGNAL_CODES, present, hop_s, moment, moment.point, quality)

    def observe_stream(self, moment: Moment, present: Collection[TechnicalCode], elapsed_s: float) -> list[AlertEvent]:
        """Take the stream conditions at a poll, `elapsed_s` after the last; return what changes.

        Signal conditions end when the signal does. Events here have the time of the poll: a stream may fall silent
        twice at one index, and does so after its last sample.
        """
        here = Point(moment.index, moment.now_ns)
        events = self._observe(STREAM_CODES, present, elapsed_s, moment, here, None)
        if any(self._tracks[code].last is not None for code in WITHOUT_SIGNAL & self._tracks.keys()):
            events += self._close(SIGNAL_CODES, moment.point, Reason.NO_SIGNAL)
        return events

    @property
    def calm(self) -> bool:
        """Whether no stream condition is open or has begun to last: a poll that sees none may then be left out."""
        return not self._tracks or not STREAM_CODES & self._tracks.keys()

    def close_all(self, at: Point, reason: Reason) -> list[AlertEvent]:
        """End every open condition, as when the stream is given up."""
        return self._close(TechnicalCode, at, reason)

    def _close(self, codes: Iterable[TechnicalCode], at: Point, reason: Reason) -> list[AlertEvent]:
        events = []
        for code in sorted(self._tracks.keys() & set(codes)):
            last = self._tracks.pop(code).last
            if last is not None:
                events.append(cleared(last, at, reason))
        return events

    def _observe(
        self,
        watched: frozenset[TechnicalCode],
        present: Collection[TechnicalCode],
        elapsed_s: float,
        moment: Moment,
        here: Point,
        quality: float | None,
    ) -> list[AlertEvent]:
        events: list[AlertEvent] = []
        if not present and not self._tracks:  # as nearly always
            return events
        for code in sorted(watched & (self._tracks.keys() | set(present))):
            track = self._tracks.setdefault(code, _Track())
            track.since_event_s += elapsed_s
            state = self._next_state(code, track, code in present, elapsed_s, here, moment.now_ns)
            if state is not None:
                events.append(self._event(code, track, state, moment, here, quality))
            if state is State.CLEARED or (track.last is None and track.present_s == 0.0):
                del self._tracks[code]
        return events

    def _next_state(
        self, code: TechnicalCode, track: _Track, present: bool, elapsed_s: float, onset: Point, now_ns: int
    ) -> State | None:
        """Advance a track; return the state that an event must tell of, if any."""
        if present:
            if track.present_s == 0.0 or track.onset is None:
                track.onset = onset
            track.present_s, track.absent_s = track.present_s + elapsed_s, 0.0
            if track.last is None:
                return State.RAISED if track.present_s >= self._rules[code].raise_after_s else None
        else:
            track.present_s, track.absent_s = 0.0, track.absent_s + elapsed_s
            if track.last is None:
                return None
            if track.absent_s >= self._clear_after_s(code, now_ns):
                return State.CLEARED
        return State.UPDATED if track.since_event_s >= self._update_every_s else None

    def _clear_after_s(self, code: TechnicalCode, now_ns: int) -> float:
        """Return how long a condition must be gone: longer the more often it has come of late."""
        usual_s = self._rules[code].clear_after_s
        raises = sum(0 <= now_ns - at_ns < HOUR_NS for at_ns in self._raised_ns.get(code, ()))
        if raises <= FREE_RAISES:
            return usual_s
        return min(max(usual_s, 1.0) * 2.0 ** (raises - FREE_RAISES), max(usual_s, HELD_S))

    def _event(
        self, code: TechnicalCode, track: _Track, state: State, moment: Moment, here: Point, quality: float | None
    ) -> AlertEvent:
        """Make the event and remember it as the condition's last."""
        last = track.last or self._blank(code, track.onset or here, moment)
        event = msgspec.structs.replace(
            last,
            revision=last.revision + 1,
            state=state,
            session=moment.session,
            at=here,
            latency_ms=moment.latency_ms,
            quality=quality,
            node=self._node,
            expires=None if state is State.CLEARED else expiry_ns(moment.now_ns, self._expires_s),
            reason=None,
        )
        track.last, track.since_event_s = event, 0.0
        if state is State.RAISED:
            self._raised_ns.setdefault(code, deque(maxlen=REMEMBERED_RAISES)).append(moment.now_ns)
        return event

    def _blank(self, code: TechnicalCode, onset: Point, moment: Moment) -> AlertEvent:
        """Return what stays the same over a condition's life; revision -1: nothing has been told of it yet."""
        return AlertEvent(
            id=condition_id(self.device, moment.session, code.value, onset),
            revision=-1,
            device=self.device,
            session=moment.session,
            kind="technical",
            code=code.value,
            state=State.RAISED,
            priority=self._rules[code].priority,
            onset=onset,
            at=onset,
            node=self._node,
        )
