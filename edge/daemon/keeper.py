"""Keeps streams across restarts: saves what changed at an interval, brings it back at the start."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence

import structlog

from edge.clock import Clock
from edge.daemon.device_stream import DeviceStream
from edge.daemon.metrics import Metrics
from edge.daemon.model_thread import ModelThread
from edge.daemon.registry import Registry
from edge.daemon.snapshots import Snapshot, SnapshotStore
from edge.daemon.stores import NoSnapshots
from edge.daemon.troubles import StoreTrouble
from edge.daemon.workers import Disk
from edge.errors import StorageError
from edge.monitor.engine import ModelStream
from edge.runtime.base import Runtime, State

GROUP_STREAMS = 8
"""Streams saved at once: they wait for that long, and the model's thread belongs to nobody else meanwhile."""

SAVING_SHARE = 0.1
"""At most this share of the time goes by while streams are saved, pauses between the groups see to it: thousands of
them saved at one go would keep all others waiting for a second."""

WRITTEN_BYTES_PER_S = 1 << 20
"""At most so much is written: flash wears out, and a disk that writes tens of megabytes holds up who computes. A crash
may then cost more than the interval says, but with thousands of streams it costs them a warm-up in any case: what was
acknowledged since the last snapshot is a gap, and few can be saved within one that is bridged."""

log = structlog.get_logger(__name__)


class Keeper:
    """Snapshots of all streams. Only streams with nothing waiting are saved; a busy one has its turn later."""

    def __init__(
        self, registry: Registry, runtime: Runtime, model_thread: ModelThread, store: SnapshotStore | NoSnapshots,
        disk: Disk, clock: Clock, metrics: Metrics, on_released: Callable[[], None],
    ) -> None:  # fmt: skip
        """on_released is called when streams that were held still for a snapshot may be scored again."""
        self._registry, self._runtime, self._model_thread = registry, runtime, model_thread
        self._store, self._disk, self._clock, self._metrics = store, disk, clock, metrics
        self._on_released = on_released
        self._saving = asyncio.Lock()
        self._trouble = StoreTrouble("snapshots_not_written", "snapshots_written_again", clock)
        self._removals: set[asyncio.Task[None]] = set()
        self.model_hash = runtime.bundle.manifest.state_hash
        """What snapshots are kept by: the state of another model says nothing to this one."""

    async def run(self, interval_s: float) -> None:
        """Save what changed, again and again, until cancelled; with many streams less often than at the interval."""
        while True:
            await asyncio.sleep(interval_s)
            groups = self._changed()
            if not groups:
                self._trouble.over("write")  # nothing is unsaved any more: what was has been given up
            for group in groups:
                begun_s = self._clock.monotonic_s()
                written = await self._try_to_save(group)
                taken_s = self._clock.monotonic_s() - begun_s
                await asyncio.sleep(max(taken_s / SAVING_SHARE, written / WRITTEN_BYTES_PER_S) - taken_s)

    async def save_changed(self, within_s: float) -> None:
        """Save the streams that changed since they were saved last, as many as the time allows.

        A disk that refuses is logged, and so are streams that the time was too short for: they will warm up again.
        """
        groups, deadline_s = self._changed(), self._clock.monotonic_s() + within_s
        for number, group in enumerate(groups):
            if self._clock.monotonic_s() >= deadline_s:
                log.warning("streams_not_saved", streams=sum(map(len, groups[number:])), within_s=within_s)
                return
            await self._try_to_save(group)

    def _changed(self) -> list[list[DeviceStream]]:
        changed = [stream for stream in self._registry if stream.changed]
        return [changed[start : start + GROUP_STREAMS] for start in range(0, len(changed), GROUP_STREAMS)]

    async def _try_to_save(self, streams: Sequence[DeviceStream]) -> int:
        """Save these; return how many bytes were written."""
        async with self._saving:  # the last save of all waits for one that is on its way
            try:
                return await self._save(streams)
            except StorageError:  # which the log has, and `problems`
                return 0

    def problems(self) -> list[str]:
        """Return why streams are not saved. Any thread may ask."""
        problem = self._trouble.problem
        return [] if problem is None else [str(problem)]

    def forget(self, device: str) -> None:
        """Have the snapshot removed of a device that is followed no more; nobody waits for that."""
        removal = asyncio.create_task(self._remove(device), name=f"remove snapshot of {device}")
        self._removals.add(removal)
        removal.add_done_callback(self._removals.discard)

    async def _remove(self, device: str) -> None:
        try:
            await self._disk.ask(self._store.remove, device)
        except StorageError as error:
            log.warning("snapshot_not_removed", device=device, problem=str(error))

    async def restore(self, max_age_s: float) -> list[Snapshot]:
        """Return the snapshots young enough, of whatever model."""
        oldest_ns = self._clock.utc_ns() - round(max_age_s * 1e9)
        try:
            return await self._disk.call(self._store.read, oldest_ns)
        except StorageError as error:
            log.warning("snapshots_not_read", problem=str(error))
            return []

    async def _save(self, streams: Sequence[DeviceStream]) -> int:
        now_ns = self._clock.utc_ns()
        taken = [
            (stream, snapshot) for stream in streams
            if self._registry.get(stream.device) is stream  # not given up meanwhile
            and (snapshot := stream.snapshot(self.model_hash, now_ns)) is not None
        ]  # fmt: skip
        if not taken:
            return 0
        for stream, _ in taken:
            stream.in_flight, stream.changed = True, False
        try:
            models = [stream.model for stream, _ in taken]
            states = await self._model_thread.call(_states, self._runtime, models)
        finally:
            self._registry.release(stream for stream, _ in taken)
            self._on_released()
        complete = [snapshot.with_model(state) for (_, snapshot), state in zip(taken, states, strict=True)]
        try:
            with self._trouble.noting("write"):
                written = await self._disk.ask(self._store.write, complete)
        except StorageError:
            for stream, _ in taken:
                stream.changed = True
            raise
        self._metrics.snapshots.inc(len(complete))
        return written


def _states(runtime: Runtime, models: Sequence[ModelStream | None]) -> list[State]:
    return [{} if model is None else runtime.save_slot(model.slot) for model in models]
