"""What the alert store has not taken yet: conditions, the newest of each, and messages in order."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import islice

from edge.alerts.events import AlertEvent, State
from edge.alerts.outbox import Committed, OutgoingMessage, messages_of
from edge.daemon.lanes import Waiting


class Unstored:
    """Kept in memory, and offered to the store as a whole: what has been delivered meanwhile is no part of it."""

    def __init__(self) -> None:
        self._conditions: dict[tuple[str, str], AlertEvent] = {}
        self._messages: dict[Waiting, OutgoingMessage] = {}

    def __bool__(self) -> bool:
        return bool(self._conditions or self._messages)

    def add_events(self, events: Iterable[AlertEvent]) -> list[Waiting]:
        """Take events in; return the messages that tell of them."""
        events = tuple(events)
        self._conditions.update({(event.device, event.code): event for event in events})
        return self._add(message for event in events for message in messages_of(event))

    def add_conditions(self, stored: Iterable[AlertEvent]) -> list[Waiting]:
        """Take in once more what is stored of conditions; return the retained messages of those still open."""
        self._conditions = {(event.device, event.code): event for event in stored} | self._conditions
        still_open = [event for event in self._conditions.values() if event.state is not State.CLEARED]
        return self._add(message for event in still_open for message in messages_of(event) if message.retain)

    def offer(self) -> tuple[list[AlertEvent], list[Waiting]]:
        """Return what is to be stored; `stored` tells what became of it."""
        return list(self._conditions.values()), list(self._messages)

    def stored(self, events: Iterable[AlertEvent], offered: Sequence[Waiting], committed: Committed) -> list[int]:
        """What was offered is stored: give the messages their numbers; return those of delivered ones."""
        for event in events:
            if self._conditions.get((event.device, event.code)) is event:  # else there is a newer one meanwhile
                del self._conditions[event.device, event.code]
        delivered = []
        for waiting, seq in zip(offered, committed.seqs, strict=True):
            waiting.seq, waiting.message = seq, None
            if self._messages.pop(waiting, None) is None:
                delivered.append(seq)
        return delivered

    def discard(self, waiting: Waiting) -> None:
        """A message need not be stored any more."""
        self._messages.pop(waiting, None)

    def beyond(self, limit: int) -> list[Waiting]:
        """Return the oldest lines of the log by which there are more messages than so many."""
        excess = max(0, len(self._messages) - limit)
        return list(islice((waiting for waiting in self._messages if not waiting.retain), excess))

    def _add(self, messages: Iterable[OutgoingMessage]) -> list[Waiting]:
        added = {Waiting(message.topic, message.retain, None, message): message for message in messages}
        self._messages.update(added)
        return list(added)
