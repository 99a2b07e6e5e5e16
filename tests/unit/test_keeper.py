"""The keeper of snapshots: it saves what changed, in groups, with pauses that leave time and the disk to others."""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from edge.clock import SystemClock
from edge.daemon import keeper as keeping
from edge.daemon.device_stream import DeviceStream
from edge.daemon.keeper import GROUP_STREAMS, Keeper
from edge.daemon.metrics import Metrics
from edge.daemon.model_thread import AnyModelThread
from edge.daemon.registry import Registry
from edge.daemon.snapshots import SnapshotStore
from edge.daemon.workers import Disk
from tests.ecg import chunks_of, patient
from tests.helpers import eventually
from tests.reference import shipped_runtime
from tests.unit.test_device_stream import make_stream
from tests.unit.test_intake import StillClock

STREAMS = 2 * GROUP_STREAMS + 3


def begun_stream(device: str, now_s: float) -> DeviceStream:
    """A stream that has changed, with less than a hop of samples."""
    stream = make_stream(device)
    stream.receive(chunks_of(patient(1, seed=3), 100, 50)[0], now_s)
    assert stream.changed
    assert not stream.waiting
    return stream


@asynccontextmanager
async def keeper_of(path: Path, count: int) -> AsyncIterator[tuple[Keeper, Registry]]:
    registry = Registry(count, 10.0, begun_stream)
    for k in range(count):
        registry.find_or_add(f"bed-{k}", 0.0)
    store, model_thread, disk = SnapshotStore(path), AnyModelThread(shipped_runtime()), Disk("disk", 2.0)
    clock, metrics = SystemClock(), Metrics()
    try:
        yield Keeper(registry, shipped_runtime(), model_thread, store, disk, clock, metrics, lambda: None), registry
    finally:
        model_thread.close()
        disk.close()
        store.close()


async def pauses_of_a_round(keeper: Keeper, monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Let the keeper go through all streams once; return how long it wanted to wait after each group."""
    pauses: list[float] = []

    async def note(seconds: float) -> None:
        if seconds == ROUND_S and pauses:
            raise asyncio.CancelledError
        if seconds != ROUND_S:
            pauses.append(seconds)

    monkeypatch.setattr(keeping.asyncio, "sleep", note)
    with pytest.raises(asyncio.CancelledError):
        await keeper.run(ROUND_S)
    return pauses


ROUND_S = 12_345.0


def test_no_more_is_written_in_a_second_than_the_disk_is_to_bear(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(keeping, "WRITTEN_BYTES_PER_S", 1)  # so that it is bytes that count, not time

    async def run() -> list[float]:
        async with keeper_of(tmp_path / "snapshots.sqlite", STREAMS) as (keeper, registry):
            pauses = await pauses_of_a_round(keeper, monkeypatch)
            assert not any(stream.changed for stream in registry)
            return pauses

    pauses = asyncio.run(run())
    with sqlite3.connect(tmp_path / "snapshots.sqlite") as database:
        count, written = database.execute("SELECT count(*), sum(length(state)) FROM snapshot").fetchone()
    assert (count, len(pauses)) == (STREAMS, 3)
    assert sum(pauses) == pytest.approx(written, rel=0.01)


def test_saving_takes_no_more_than_its_share_of_the_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(keeping, "WRITTEN_BYTES_PER_S", 1 << 40)
    monkeypatch.setattr(keeping, "SAVING_SHARE", 1e-6)  # a million times what it took

    async def run() -> list[float]:
        async with keeper_of(tmp_path / "snapshots.sqlite", GROUP_STREAMS) as (keeper, _):
            return await pauses_of_a_round(keeper, monkeypatch)

    (pause,) = asyncio.run(run())
    assert 10.0 < pause < 1e6


def test_the_end_does_not_wait_for_a_disk_that_is_too_slow(tmp_path: Path) -> None:
    class SlowDisk(Disk):
        async def ask(self, *work: Any, **named: Any) -> Any:
            clock.now_s += 4.0
            return await super().ask(*work, **named)

    clock = StillClock()

    async def run() -> int:
        registry = Registry(STREAMS, 10.0, begun_stream)
        for k in range(STREAMS):
            registry.find_or_add(f"bed-{k}", 0.0)
        store, model_thread, disk = SnapshotStore(tmp_path / "s"), AnyModelThread(shipped_runtime()), SlowDisk("d", 9.0)
        keeper = Keeper(registry, shipped_runtime(), model_thread, store, disk, clock, Metrics(), lambda: None)
        await keeper.save_changed(within_s=7.0)
        left = sum(stream.changed for stream in registry)
        await keeper.save_changed(within_s=7.0)
        assert not any(stream.changed for stream in registry)
        model_thread.close()
        disk.close()
        store.close()
        return left

    assert asyncio.run(run()) == STREAMS - 2 * GROUP_STREAMS


def test_a_snapshot_says_what_its_state_depends_on_and_not_the_graph_alone(tmp_path: Path) -> None:
    async def run() -> None:
        async with keeper_of(tmp_path / "snapshots.sqlite", 1) as (keeper, _):
            await keeper.save_changed(within_s=60.0)

    asyncio.run(run())
    store, manifest = SnapshotStore(tmp_path / "snapshots.sqlite"), shipped_runtime().bundle.manifest
    (snapshot,) = store.read(0)
    store.close()
    assert snapshot.model_hash == manifest.state_hash != manifest.model_hash


def test_a_stream_is_not_scored_while_its_state_is_read(tmp_path: Path) -> None:
    class SlowThread(AnyModelThread):
        async def call(self, *work: Any) -> Any:
            await reading.wait()
            return await super().call(*work)

    async def run() -> None:
        registry = Registry(1, 10.0, begun_stream)
        stream, _ = registry.find_or_add("bed", 0.0)
        store, thread, disk = SnapshotStore(tmp_path / "s"), SlowThread(shipped_runtime()), Disk("d", 9.0)
        keeper = Keeper(registry, shipped_runtime(), thread, store, disk, SystemClock(), Metrics(), released.set)
        saving = asyncio.create_task(keeper.save_changed(within_s=7.0))
        await eventually(lambda: stream.in_flight)
        stream.receive(chunks_of(patient(1, seed=3), 100, 50)[1], 1.0)
        assert stream.waiting
        assert stream.changed
        assert not registry.enqueue(stream)
        reading.set()
        await saving
        assert released.is_set()
        assert stream.changed  # by what came meanwhile
        assert [found for found, _ in registry.take_batch(8)] == [stream]
        (snapshot,) = store.read(0)
        assert snapshot.expected == 50
        thread.close()
        disk.close()
        store.close()

    reading, released = asyncio.Event(), asyncio.Event()
    asyncio.run(run())
