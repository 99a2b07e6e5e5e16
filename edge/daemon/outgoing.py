"""What goes out: alerts through the durable outbox, everything else as far as the connection allows."""

from __future__ import annotations

import asyncio
import secrets
from collections import deque
from collections.abc import Coroutine, Iterable, Sequence
from functools import partial
from typing import Any

import structlog

from edge.alerts.events import AlertEvent, State
from edge.alerts.outbox import AlertStore, Committed, OutgoingMessage
from edge.clock import Clock
from edge.daemon.lanes import Lanes, Waiting
from edge.daemon.metrics import Metrics
from edge.daemon.transport import ConnectionState, Transport
from edge.daemon.troubles import RETRY_S, Refusals, StoreTrouble
from edge.daemon.unstored import Unstored
from edge.daemon.workers import Disk
from edge.errors import MessageRefusedError, TransportError

SENDING_LIMIT = 50
"""Messages handed to the transport at once, each of another topic."""
FORGET_AT_ONCE = 100
FORGET_AFTER_S = 0.1
"""Delivered messages are forgotten by so many, or when nothing else is to be done, or after so long: each time the disk
has to write."""
LOADED_AT_ONCE = 1000
MAX_UNSTORED_MESSAGES = 20_000
MAX_WAIT_S = 10.0
"""A topic of which the broker, though connected, takes nothing for so long keeps its alerts back."""

log = structlog.get_logger(__name__)


class Outgoing:
    """Stores alert events before anything else happens to them, and publishes them until they are acknowledged.

    While the store refuses them, or does not answer, they are published all the same, from memory. Each topic is served
    by itself and in order: what the broker refuses is tried again after a while, and holds up no other topic.
    """

    def __init__(
        self, store: AlertStore, disk: Disk, transport: Transport, clock: Clock, metrics: Metrics
    ) -> None:  # fmt: skip
        """Take note of what waits in the store; raises StorageError when it cannot be read."""
        self._store, self._disk, self._transport, self._clock, self._metrics = store, disk, transport, clock, metrics
        self._lanes = Lanes(secrets.SystemRandom().random)
        self._fresh: deque[AlertEvent] = deque()
        """Events that have not been offered to the store yet."""
        self._unstored = Unstored()
        self._to_forget: set[int] = set()
        """Numbers of messages that the store still holds though they need not be sent any more."""
        self._writing = StoreTrouble("alerts_not_stored", "alerts_stored_again", clock)
        self._reading = StoreTrouble("alerts_not_read", "alerts_read_again", clock)
        self._refusals = Refusals(metrics)
        self._dropping = False
        self._conditions_told = True
        self._storing = asyncio.Lock()
        self._wake = asyncio.Event()
        self._sending = 0
        self._tasks: set[asyncio.Task[None]] = set()
        """Messages on their way to the broker, and events on theirs to the store."""
        self._connected_s = self._forget_s = clock.monotonic_s()
        self._send_again_s: float | None = None
        """When to try again with a broker that was not there."""
        self._stands_since_s: float | None = None
        self._load()

    def take(self, events: Sequence[AlertEvent]) -> asyncio.Future[None]:
        """Take events, which go out in the order they are taken; done when they are durable, or kept in memory.

        Nothing but the events' own streams need wait for it: a disk may take its time.
        """
        for event in events:
            self._metrics.alerts.inc(event.code, event.state.value)
            tell = log.debug if event.state is State.UPDATED else log.info
            tell("alert", device=event.device, code=event.code, state=event.state.value, id=event.id)
        self._fresh.extend(events)
        return self._spawn(self._store_events(), "storing alerts")

    def retell(self) -> None:
        """Publish every open condition once more: a broker that was away may have forgotten what it retained."""
        self._conditions_told = False
        self._connected_s, self._send_again_s = self._clock.monotonic_s(), None
        self._wake.set()

    async def publish(self, topic: str, payload: bytes, retain: bool = False) -> None:
        """Publish what may be lost (QoS 0)."""
        await self._transport.publish(topic, payload, qos=0, retain=retain)

    @property
    def pending(self) -> int:
        """How many messages the broker has not acknowledged. Any thread may ask."""
        return self._lanes.count + 2 * len(self._fresh)

    @property
    def settled(self) -> bool:
        """Whether all is done that can be done now: only what the broker refused still waits."""
        return not (self._fresh or self._unstored or self._to_forget) and self._lanes.idle

    def problems(self) -> list[str]:
        """Return why alerts are not stored, or not leaving although a broker is connected. Any thread may ask."""
        problems = [str(error) for error in (self._writing.problem, self._reading.problem) if error is not None]
        since_s = self._stands_since_s
        if since_s is not None and self._transport.state is ConnectionState.CONNECTED:
            waited_s = self._clock.monotonic_s() - max(since_s, self._connected_s)
            if waited_s > MAX_WAIT_S:
                why = self._refusals.problem or "the broker does not acknowledge them"
                problems.append(f"alerts have waited for {waited_s:.0f} s: {why}")
        return problems

    async def run(self) -> None:
        """Publish what waits, the messages of a topic in order, until cancelled."""
        try:
            while True:
                self._check_tasks()
                await self._send_ready()
                await self._keep_store()
                self._note_figures()
                await self._work_left()
        finally:
            for task in self._tasks:
                task.cancel()
            await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _work_left(self) -> None:
        """Wait until something has changed, or is to be tried again."""
        pause_s = self._pause_s()
        timer = None if pause_s is None else asyncio.get_running_loop().call_later(pause_s, self._wake.set)
        try:
            await self._wake.wait()
        finally:
            self._wake.clear()
            if timer is not None:
                timer.cancel()

    def _pause_s(self) -> float | None:
        now_s, again_s = self._clock.monotonic_s(), self._lanes.next_attempt_s()
        pauses = [] if again_s is None else [again_s - now_s]
        if self._send_again_s is not None:
            pauses = [self._send_again_s - now_s]
        if self._to_forget:
            pauses.append(max(FORGET_AFTER_S, self._forget_s - now_s))
        if self._writing.problem is not None or self._reading.problem is not None:
            pauses.append(RETRY_S)
        return max(0.0, min(pauses)) if pauses else None

    def _note_figures(self) -> None:
        self._stands_since_s = self._lanes.stands_since_s
        self._metrics.outbox_pending.set(self.pending)
        self._metrics.unreadable_alerts.set(self._store.unreadable)

    # What the disk is asked for: each on its own, so that what fails keeps nothing else from being tried.

    def _load(self) -> None:
        after_seq, now_s = 0, self._clock.monotonic_s()
        while page := self._store.pending(after_seq, LOADED_AT_ONCE):
            after_seq = page[-1].seq
            for stored in page:
                self._lanes.add(Waiting(stored.message.topic, stored.message.retain, stored.seq), now_s)
        self._note_figures()

    async def _keep_store(self) -> None:
        if (self._unstored or self._writing.fails("store")) and self._writing.due("store"):
            await self._store_events()
        if not self._conditions_told and self._reading.due("conditions"):
            await self._tell_conditions()
        if self._to_forget and self._writing.due("forget") and self._shall_forget():
            await self._forget()

        if self._reading.fails("messages") and self._reading.due("messages"):
            with self._reading.trying("messages"):  # what could not be read may not be needed any more
                await self._disk.ask(self._store.pending, 0, 1)

    async def _store_events(self) -> None:
        async with self._storing:  # events that came from the pipeline, from the poll, and those still unstored
            fresh = tuple(self._fresh)
            if not (fresh or self._unstored or self._writing.fails("store")):
                return  # who came before has taken them along
            await self._store_or_keep(self._unstored.add_events(fresh))
            for _ in fresh:
                self._fresh.popleft()

    async def _tell_conditions(self) -> None:
        async with self._storing:  # no newer event of a condition comes between reading and storing
            self._conditions_told = True
            conditions: list[AlertEvent] | None = None
            with self._reading.trying("conditions"):
                conditions = await self._disk.ask(self._store.open_conditions)
            if conditions is None:
                self._conditions_told = False
            else:
                await self._store_or_keep(self._unstored.add_conditions(conditions))

    async def _store_or_keep(self, added: Iterable[Waiting]) -> None:
        """Store all that is unstored, if the disk takes it; what was added waits in its lanes from now on."""
        if self._writing.due("store"):
            events, offered = self._unstored.offer()
            messages = [waiting.message for waiting in offered]
            note = partial(self._note_committed, events, offered)
            with self._writing.trying("store"):
                now_ns = self._clock.utc_ns()
                note(await self._disk.ask(self._store.commit, events, messages, now_ns, late=note))
        now_s = self._clock.monotonic_s()
        for waiting in added:
            self._let_go(self._lanes.add(waiting, now_s))
            self._wake.set()
        self._limit_memory()

    def _note_committed(
        self, events: Sequence[AlertEvent], offered: Sequence[Waiting], committed: Committed
    ) -> None:  # fmt: skip
        """What was offered is stored, be it after so long that it has been delivered meanwhile."""
        self._to_forget.update(self._unstored.stored(events, offered, committed))
        for seq, topic in committed.dropped:
            self._lanes.drop(topic, seq)
        self._dropping = False

    def _limit_memory(self) -> None:
        dropped = [waiting for waiting in self._unstored.beyond(MAX_UNSTORED_MESSAGES) if self._lanes.discard(waiting)]
        if dropped:
            self._let_go(dropped)
            self._metrics.dropped_alerts.inc(len(dropped))
            tell = log.debug if self._dropping else log.error
            tell("alerts_dropped", dropped=len(dropped), limit=MAX_UNSTORED_MESSAGES)
            self._dropping = True

    def _shall_forget(self) -> bool:
        due = self._clock.monotonic_s() >= self._forget_s
        return due or self._lanes.idle or len(self._to_forget) >= FORGET_AT_ONCE

    async def _forget(self) -> None:
        forgotten = frozenset(self._to_forget)
        with self._writing.trying("forget"):
            await self._disk.ask(self._store.delivered, *forgotten)
            self._to_forget -= forgotten

    def _let_go(self, waiting: Iterable[Waiting]) -> None:
        """These need not be sent any more, nor kept."""
        for each in waiting:
            if each.seq is None:
                self._unstored.discard(each)
                continue
            if not self._to_forget:
                self._forget_s = self._clock.monotonic_s() + FORGET_AFTER_S
            self._to_forget.add(each.seq)

    # What the broker is given.

    async def _send_ready(self) -> None:
        now_s = self._clock.monotonic_s()
        if self._send_again_s is not None and now_s < self._send_again_s:
            return
        self._send_again_s = None
        taken = [(it, it.message) for it in self._lanes.take(SENDING_LIMIT - self._sending, now_s)]
        stored = await self._read([it.seq for it, message in taken if message is None and it.seq is not None])
        for waiting, kept in taken:
            if kept is None and stored is None:
                self._let_go(self._lanes.put_back(waiting))
            elif message := kept or (stored or {}).get(waiting.seq or 0):
                self._sending += 1
                self._spawn(self._send(waiting, message), f"alert on {waiting.topic}")
            else:  # set aside, or dropped from a full store
                self._settle(waiting)
                self._wake.set()

    async def _read(self, seqs: list[int]) -> dict[int, OutgoingMessage] | None:
        """Return stored messages, None when nothing can be read now."""
        if not seqs:
            return {}
        if self._reading.due("messages"):
            with self._reading.trying("messages"):
                return await self._disk.ask(self._store.read, seqs)
        return None

    async def _send(self, waiting: Waiting, message: OutgoingMessage) -> None:
        try:
            await self._transport.publish(message.topic, message.payload, qos=1, retain=message.retain)
        except MessageRefusedError as error:
            self._refusals.note(error)
            self._let_go(self._lanes.refuse(waiting, self._clock.monotonic_s()))
        except TransportError:
            self._send_again_s = self._clock.monotonic_s() + RETRY_S
            self._let_go(self._lanes.put_back(waiting))
        else:
            self._settle(waiting)
            self._let_go([waiting])
        finally:
            self._sending -= 1

    def _settle(self, waiting: Waiting) -> None:
        self._lanes.settle(waiting, self._clock.monotonic_s())
        self._refusals.over(waiting.topic)

    def _spawn(self, job: Coroutine[Any, Any, None], name: str) -> asyncio.Task[None]:
        task = asyncio.create_task(job, name=name)
        task.add_done_callback(lambda _: self._wake.set())
        self._tasks.add(task)
        return task

    def _check_tasks(self) -> None:
        """Let go of what is sent, or stored; raises what that died of."""
        for task in [task for task in self._tasks if task.done()]:
            self._tasks.remove(task)
            task.result()
