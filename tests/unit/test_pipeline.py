"""The pipeline: nobody waits for another's disk, and no stream gets ahead of its own alerts."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Sequence
from typing import cast

import numpy as np

from edge.alerts.events import AlertEvent
from edge.clock import SystemClock
from edge.daemon.metrics import Metrics
from edge.daemon.model_thread import AnyModelThread
from edge.daemon.outgoing import Outgoing
from edge.daemon.pipeline import Pipeline
from edge.daemon.registry import Registry
from tests.ecg import chunks_of, patient
from tests.helpers import eventually
from tests.reference import shipped_runtime
from tests.unit.test_device_stream import feed, make_stream

SECONDS = 12


class SlowStore:
    """Stands in for what stores alerts: each time it is done when the test says so."""

    def __init__(self) -> None:
        self.asked: list[tuple[Sequence[AlertEvent], asyncio.Future[None]]] = []

    def take(self, events: Sequence[AlertEvent]) -> asyncio.Future[None]:
        stored = asyncio.get_running_loop().create_future()
        self.asked.append((tuple(events), stored))
        return stored

    async def publish(self, topic: str, payload: bytes, retain: bool = False) -> None:
        pass


async def with_one_stream_waiting_for_the_disk(max_batch: int) -> None:
    registry = Registry(2, 10.0, lambda device, now_s: make_stream(device))
    store, thread = SlowStore(), AnyModelThread(shipped_runtime())
    outgoing = cast("Outgoing", store)
    pipeline = Pipeline(registry, shipped_runtime(), thread, outgoing, SystemClock(), Metrics(), max_batch)
    well, off = (registry.find_or_add(device, 0.0)[0] for device in ("well", "off"))
    feed(well, chunks_of(patient(SECONDS, seed=3)))
    feed(off, chunks_of(np.zeros((100 * SECONDS, 12), np.int16)))
    registry.release([well, off])
    running = asyncio.create_task(pipeline.run())
    pipeline.wake()
    try:
        await eventually(lambda: store.asked and not well.waiting and not well.in_flight, what="the well stream's end")
        ((events, stored),) = store.asked
        assert {event.device for event in events} == {"off"}
        left = len(off.waiting)
        assert left > 0
        assert off.in_flight
        off.waiting.clear()  # so that nothing else is in a snapshot's way
        assert off.snapshot("hash", 0) is None
        assert well.snapshot("hash", 0) is not None
        stored.set_result(None)
        await eventually(lambda: not off.in_flight, what="the release of the stream whose alert is stored")
        assert off.snapshot("hash", 0) is not None
        feed(off, chunks_of(np.zeros((100, 12), np.int16), session="s2"))
        registry.enqueue(off)
        pipeline.wake()
        await eventually(lambda: not pipeline.busy, what="the next hop of the stream whose alert is stored")
    finally:
        running.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await running
        thread.close()


def test_a_stream_waits_for_its_alerts_to_be_stored_and_the_others_go_on() -> None:
    asyncio.run(with_one_stream_waiting_for_the_disk(max_batch=8))


def test_so_it_does_when_every_batch_is_one_stream() -> None:
    asyncio.run(with_one_stream_waiting_for_the_disk(max_batch=1))
