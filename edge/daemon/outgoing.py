"""What goes out: alerts through the durable outbox, everything else as far as the connection allows."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Sequence

import structlog

from edge.alerts.events import AlertEvent, State
from edge.alerts.outbox import AlertStore, OutgoingMessage, StoredMessage, messages_of
from edge.daemon.metrics import Metrics
from edge.daemon.transport import Transport
from edge.daemon.workers import Worker
from edge.errors import StorageError, TransportError

BATCH_MESSAGES = 100
RETRY_S = 0.5
MAX_UNSTORED_EVENTS = 10_000

log = structlog.get_logger(__name__)


class Outgoing:
    """Stores alert events before anything else happens to them, and publishes them until they are acknowledged."""

    def __init__(self, store: AlertStore, disk: Worker, transport: Transport, metrics: Metrics) -> None:
        self._store, self._disk, self._transport, self._metrics = store, disk, transport, metrics
        self._unstored: deque[AlertEvent] = deque(maxlen=MAX_UNSTORED_EVENTS)
        self._conditions_told = True
        self._storing = asyncio.Lock()
        self._wake = asyncio.Event()
        self._wake.set()

    async def alert(self, events: Sequence[AlertEvent]) -> None:
        """Make events durable; a disk that refuses is tried again with the next events, and every RETRY_S."""
        if not events and not self._unstored:
            return
        for event in events:
            self._metrics.alerts.inc(event.code, event.state.value)
            tell = log.debug if event.state is State.UPDATED else log.info
            tell("alert", device=event.device, code=event.code, state=event.state.value, id=event.id)
        self._unstored.extend(events)
        await self._store_events()
        self._wake.set()

    def retell(self) -> None:
        """Publish every open condition once more: a broker that was away may have forgotten what it retained."""
        self._conditions_told = False
        self._wake.set()

    async def publish(self, topic: str, payload: bytes, retain: bool = False) -> None:
        """Publish what may be lost (QoS 0)."""
        await self._transport.publish(topic, payload, qos=0, retain=retain)

    @property
    def pending(self) -> int:
        """How many messages the broker has not acknowledged."""
        return self._store.pending_count() + 2 * len(self._unstored)

    async def run(self) -> None:
        """Publish what waits, in order, until cancelled."""
        while True:
            await self._wake.wait()
            self._wake.clear()
            if not await self._try_to_deliver():
                asyncio.get_running_loop().call_later(RETRY_S, self._wake.set)
            elif self.pending:
                self._wake.set()

    async def _try_to_deliver(self) -> bool:
        try:
            return await self._deliver_batch()
        except StorageError as error:
            log.error("alerts_not_delivered", waiting=self.pending, problem=str(error))
            return False

    async def _deliver_batch(self) -> bool:
        """Publish the oldest messages that wait; return whether all of them arrived."""
        if self._unstored:
            await self._store_events()
        if not self._conditions_told:
            await self._disk.call(self._store_conditions_again)
            self._conditions_told = True
        waiting = await self._disk.call(self._store.pending, 0, BATCH_MESSAGES)
        if waiting:
            outcomes = await asyncio.gather(*(self._send(stored) for stored in waiting))
            delivered = [stored.seq for stored, sent in zip(waiting, outcomes, strict=True) if sent]
            if delivered:
                await self._disk.call(self._store.delivered, *delivered)
            if len(delivered) < len(waiting):
                return False
        self._metrics.outbox_pending.set(self.pending)
        return not self._unstored

    async def _send(self, stored: StoredMessage) -> bool:
        message = stored.message
        try:
            await self._transport.publish(message.topic, message.payload, qos=1, retain=message.retain)
        except TransportError:
            return False
        return True

    async def _store_events(self) -> None:
        async with self._storing:  # the pipeline, the poll and the outbox may all come here at once
            events = list(self._unstored)
            if not events:
                return  # whoever had the lock before stored ours too
            self._unstored.clear()
            messages: list[OutgoingMessage] = [message for event in events for message in messages_of(event)]
            try:
                await self._disk.call(self._store.commit, events, messages)
            except StorageError as error:
                log.error("alerts_not_stored", waiting=len(events), problem=str(error))
                events += self._unstored
                self._unstored.clear()
                self._unstored.extend(events)

    def _store_conditions_again(self) -> None:
        """On the disk's thread, so that no newer event of a condition comes between reading and storing."""
        conditions = self._store.open_conditions()
        self._store.commit([], [message for event in conditions for message in messages_of(event) if message.retain])
