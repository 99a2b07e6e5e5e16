"""The order in which alerts go out: within a topic one after the other, and no topic waits for another's."""

from __future__ import annotations

import heapq
import itertools
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

from edge.alerts.outbox import OutgoingMessage
from edge.daemon.backoff import full_jitter_s

REFUSED_MIN_S = 1.0
REFUSED_MAX_S = 60.0
"""The first and the largest ceiling of the random pause after which a refused message is tried again."""


@dataclass(eq=False, slots=True)
class Waiting:
    """A message that waits: its number in the store, or, while the store refuses it, the message itself."""

    topic: str
    retain: bool
    seq: int | None = None
    message: OutgoingMessage | None = None


@dataclass(eq=False, slots=True)
class _Lane:
    """What waits on one topic, oldest first."""

    topic: str
    since_s: float
    """When its oldest message came to be the next one."""
    entries: deque[Waiting] = field(default_factory=deque)
    in_flight: bool = False
    refusals: int = 0


class Lanes:
    """All that waits. The first message of a lane is tried alone, so what follows it never overtakes it.

    Of a retained topic only the newest message waits, beside one that is on its way. Times are the monotonic clock's.
    """

    def __init__(self, random: Callable[[], float]) -> None:
        """random() in [0, 1) spreads the attempts with refused messages."""
        self._random = random
        self._lanes: dict[str, _Lane] = {}
        """Lanes that are not empty, those that have not moved for longest first."""
        self._ready: deque[_Lane] = deque()
        self._refused: list[tuple[float, int, _Lane]] = []
        """A heap of when each refused lane is tried again, and a number that tells equal times apart."""
        self._numbers = itertools.count()
        self._in_flight = 0
        self.count = 0
        """How many messages wait, those on their way included."""

    def add(self, waiting: Waiting, now_s: float) -> list[Waiting]:
        """Let a message wait behind those of its topic; return those it takes the place of."""
        lane = self._lanes.get(waiting.topic)
        if lane is None:
            lane = self._lanes[waiting.topic] = _Lane(waiting.topic, now_s)
            self._ready.append(lane)
        lane.entries.append(waiting)
        self.count += 1
        return list(self._superseded(lane))

    def take(self, limit: int, now_s: float) -> list[Waiting]:
        """Return the first message of up to so many lanes whose turn it is; each is on its way until it is settled."""
        while self._refused and self._refused[0][0] <= now_s:
            self._ready.append(heapq.heappop(self._refused)[2])
        taken: list[Waiting] = []
        while self._ready and len(taken) < limit:
            lane = self._ready.popleft()
            if lane.entries:  # else what waited was dropped
                self._depart(lane)
                taken.append(lane.entries[0])
        return taken

    def settle(self, waiting: Waiting, now_s: float) -> None:
        """A message that was on its way has arrived, or is no more: the next of its topic has its turn."""
        lane = self._lanes[waiting.topic]
        self._return(lane)
        lane.refusals = 0
        self._remove(lane, waiting)
        del self._lanes[lane.topic]
        if lane.entries:
            lane.since_s = now_s
            self._lanes[lane.topic] = lane
            self._ready.append(lane)

    def put_back(self, waiting: Waiting) -> list[Waiting]:
        """A message that was on its way is to be tried again as soon as may be; return what a newer one replaced."""
        lane = self._lanes[waiting.topic]
        self._return(lane)
        self._ready.append(lane)
        return list(self._superseded(lane))

    def refuse(self, waiting: Waiting, now_s: float) -> list[Waiting]:
        """A message that was on its way was refused: its lane pauses; return what a newer one replaced."""
        lane = self._lanes[waiting.topic]
        self._return(lane)
        pause_s = full_jitter_s(lane.refusals, REFUSED_MIN_S, REFUSED_MAX_S, self._random)
        lane.refusals += 1
        heapq.heappush(self._refused, (now_s + pause_s, next(self._numbers), lane))
        return list(self._superseded(lane))

    def drop(self, topic: str, seq: int) -> None:
        """Forget a stored message, unless it is on its way."""
        lane = self._lanes.get(topic)
        if lane is not None:
            waiting = next((entry for entry in lane.entries if entry.seq == seq), None)
            if waiting is not None:
                self.discard(waiting)

    def discard(self, waiting: Waiting) -> bool:
        """Forget a message that waits; False when it is on its way, or waits no more."""
        lane = self._lanes.get(waiting.topic)
        if lane is None or waiting not in lane.entries or (lane.in_flight and lane.entries[0] is waiting):
            return False
        self._remove(lane, waiting)
        if not lane.entries:
            del self._lanes[lane.topic]
        return True

    def next_attempt_s(self) -> float | None:
        """Return when the next refused message is tried again."""
        return self._refused[0][0] if self._refused else None

    @property
    def idle(self) -> bool:
        """Whether nothing can be done now: all that waits was refused."""
        return not self._ready and not self._in_flight

    @property
    def stands_since_s(self) -> float | None:
        """Since when the lane that has not moved for longest has waited; None when nothing waits."""
        return next((lane.since_s for lane in self._lanes.values()), None)

    def _depart(self, lane: _Lane) -> None:
        lane.in_flight = True
        self._in_flight += 1

    def _return(self, lane: _Lane) -> None:
        lane.in_flight = False
        self._in_flight -= 1

    def _superseded(self, lane: _Lane) -> Iterator[Waiting]:
        """Take out of a retained topic's lane all but the newest message and one that is on its way."""
        while lane.entries[-1].retain and len(lane.entries) > 1 + lane.in_flight:
            old = lane.entries[1 if lane.in_flight else 0]
            self._remove(lane, old)
            yield old

    def _remove(self, lane: _Lane, waiting: Waiting) -> None:
        if waiting in lane.entries:
            lane.entries.remove(waiting)
            self.count -= 1
