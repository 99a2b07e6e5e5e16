"""The life of streams: made with the alerts they left behind, polled, given up when they stay away."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import structlog

from edge.alerts.events import AlertEvent, Model, Moment, Point, Reason, cleared
from edge.alerts.policy import AlertPolicy
from edge.alerts.technical import STREAM_CODES, TechnicalCode
from edge.clock import Clock
from edge.daemon.config import StreamsConfig
from edge.daemon.device_stream import DeviceStream
from edge.daemon.keeper import Keeper
from edge.daemon.metrics import Metrics
from edge.daemon.model_thread import ModelThread
from edge.daemon.outgoing import Outgoing
from edge.daemon.registry import Registry
from edge.daemon.snapshots import Snapshot
from edge.daemon.stream_alerts import StreamAlerts
from edge.errors import PayloadError, StorageError
from edge.runtime.base import Runtime
from edge.runtime.manifest import Manifest
from edge.stream.assembler import AssemblerCounters, AssemblerLimits
from edge.stream.runs import Reset

POLL_S = 0.25
"""How often streams that miss a chunk are asked whether it is overdue."""
LOOK_S = 1.0
"""How often all streams are looked at, unless silence shall be noticed sooner; of thousands it takes milliseconds."""
STALL_S = POLL_S
"""A poll that is so late says that the process stood still: what a stream waits for may be in the socket, unread."""
CATCH_UP_SHARE = 2.0
CATCH_UP_S = 10.0
"""After it stood still nobody is called silent for this multiple of that time, but for no longer than this."""

log = structlog.get_logger(__name__)


class StreamFactory:
    """Makes streams; a device that left open conditions behind goes on with them under their ids."""

    def __init__(
        self, config: StreamsConfig, manifest: Manifest, node: str, runtime_name: str, policy: AlertPolicy
    ) -> None:
        self.config, self.policy = config, policy
        self._manifest, self._node = manifest, node
        self._model = Model(f"{manifest.name}-{manifest.version}", manifest.model_hash, runtime_name)
        self._conditions: dict[str, list[AlertEvent]] = {}
        self.cleared: list[AlertEvent] = []
        """Clears of restored conditions that nobody watches any more; to be published."""

    def remember(self, conditions: list[AlertEvent]) -> None:
        """Keep open conditions until their devices' streams are made."""
        for condition in conditions:
            self._conditions.setdefault(condition.device, []).append(condition)

    @property
    def remembered_devices(self) -> list[str]:
        """Devices with conditions whose streams have not been made yet."""
        return sorted(self._conditions)

    def make(self, device: str, now_s: float) -> DeviceStream:
        """Return a new stream."""
        alerts = StreamAlerts(device, self._node, self._model, self.policy, self._manifest)
        conditions = self._conditions.pop(device, [])
        self.cleared += alerts.restore(conditions)
        stream = DeviceStream(device, self._manifest, *self._limits(), alerts, last_arrival_s=now_s)
        if conditions:
            last, rate_hz = conditions[-1], self._manifest.signal.rate_hz
            stream.left_at = Moment(last.session, last.at.i, rate_hz, last.at.t, 0)
        return stream

    def give_up_remembered(self, device: str) -> None:
        """End the conditions of a device that gets no stream."""
        self.cleared += [cleared(last, last.at, Reason.EVICTED) for last in self._conditions.pop(device, [])]

    def adjust(self, stream: DeviceStream) -> None:
        """Let a stream follow the configuration and the policy in force."""
        stream.adopt(*self._limits())
        stream.alerts.adopt(self.policy)

    def _limits(self) -> tuple[AssemblerLimits, int]:
        limits = AssemblerLimits(self.config.gap_bridge_s, self.config.reorder_wait_s)
        return limits, max(1, round(self.config.backlog_s / self._manifest.hop_s))


class StreamKeeper:
    """Looks after all streams: overdue chunks several times a second, silence, overload and eviction every second."""

    def __init__(
        self, registry: Registry, factory: StreamFactory, runtime: Runtime, model_thread: ModelThread, keeper: Keeper,
        outgoing: Outgoing, clock: Clock, metrics: Metrics,
    ) -> None:  # fmt: skip
        self._registry, self._factory, self._runtime, self._model_thread = registry, factory, runtime, model_thread
        self._keeper, self._outgoing, self._clock, self._metrics = keeper, outgoing, clock, metrics
        self._given_up: list[DeviceStream] = []
        self.totals = AssemblerCounters()
        """Sums over all streams, those given up included, for metrics and health."""
        self.dropped_samples = 0
        self.listening = True
        """Whether chunks are taken: while they are not, silence says nothing."""
        self._connected_s: float | None = None
        """Since when the broker has been there: before that no device could be heard."""
        self._caught_up_s = clock.monotonic_s()
        """When what came while the process stood still has been read: it is no silence of the devices."""

    async def run(self, wake_pipeline: Callable[[], None]) -> None:
        """Poll until cancelled; tells the pipeline when hops wait."""
        looked_s = self._clock.monotonic_s()
        while True:
            slept_s = self._clock.monotonic_s()
            await asyncio.sleep(POLL_S)
            now_s = self._clock.monotonic_s()
            late_s = now_s - slept_s - POLL_S
            if late_s <= STALL_S:
                self._poll_incomplete(now_s)
            else:
                self._caught_up_s = max(self._caught_up_s, now_s + min(CATCH_UP_S, CATCH_UP_SHARE * late_s))
            events: list[AlertEvent] = []
            if now_s - looked_s >= min(LOOK_S, self._factory.config.silent_after_s / 2):
                events = self._look(now_s, now_s - looked_s)
                looked_s = now_s
            wake_pipeline()
            if events:
                self._outgoing.take(events)
            await self._release_given_up()

    def note_connection(self, connected: bool) -> None:
        """The broker is there, or gone."""
        self._connected_s = self._clock.monotonic_s() if connected else None

    def _poll_incomplete(self, now_s: float) -> None:
        """Let streams that miss a chunk give up on it when it is overdue."""
        for stream in tuple(self._registry.incomplete):
            stream.poll(now_s)
            self._registry.enqueue(stream)
            self._registry.note_missing(stream)

    def _look(self, now_s: float, elapsed_s: float) -> list[AlertEvent]:
        """Look at every stream once; return what changes."""
        events, self._factory.cleared = self._factory.cleared, []
        oldest_s = now_s
        silent_since_s = now_s - self._factory.config.silent_after_s
        for stream in self._registry:
            if stream.is_uneventful(silent_since_s):
                continue
            self._registry.note_missing(stream)
            if stream.waiting:
                self._registry.enqueue(stream)
                oldest_s = min(oldest_s, stream.waiting_since_s or now_s)
            events += self._judge(stream, now_s, elapsed_s)
            if stream.assembler.counters.eventful or stream.dropped_samples:
                self._count(stream)
            kept_s = stream.silent_after_s(self._factory.config.evict_after_s)
            if now_s - stream.last_arrival_s > kept_s and not stream.in_flight:
                self._registry.remove(stream.device)
                events += self.give_up(stream)
        self._metrics.streams.set(len(self._registry))
        self._metrics.lag_seconds.set(now_s - oldest_s)
        return events

    def evict(self, stream: DeviceStream) -> None:
        """Give up a stream that had to make room; its clears go out with the next poll."""
        self._factory.cleared += self.give_up(stream)

    def give_up(self, stream: DeviceStream) -> list[AlertEvent]:
        """End a stream's conditions and mark its place in the runtime for release."""
        log.info("stream_given_up", device=stream.device)
        self._count(stream)
        self._given_up.append(stream)
        moment = stream.moment(self._clock.utc_ns())
        return stream.alerts.close_all(Point(0) if moment is None else moment.point, Reason.EVICTED)

    async def restore(self, snapshots: list[Snapshot], model_hash: str) -> int:
        """Make the streams that were followed before; return how many go on where they stood.

        Those of another model start afresh, but they are followed: a device that does not come back is silent.
        """
        now_s, restored = self._clock.monotonic_s(), 0
        for snapshot in snapshots:
            try:
                stream, _ = self._registry.find_or_add(snapshot.device, now_s)
                stream.remember(snapshot)
                if snapshot.model_hash == model_hash:
                    stream.restore(snapshot, now_s)
                    restored += 1
            except (PayloadError, StorageError) as error:  # no room since max_streams was lowered, or no fit
                log.warning("snapshot_not_used", device=snapshot.device, problem=str(error))
        for device in self._factory.remembered_devices:
            try:
                self._registry.find_or_add(device, now_s)
            except PayloadError:
                self._factory.give_up_remembered(device)
        return restored

    def _judge(self, stream: DeviceStream, now_s: float, elapsed_s: float) -> list[AlertEvent]:
        present = set()
        if self._is_silent(stream, now_s):
            present.add(TechnicalCode.STREAM_SILENT)
        if stream.unfit is not None:
            present.add(TechnicalCode.UNFIT_LEADS)
        if not stream.heard:  # since a restart nothing has come that could have ended what was before it
            present |= STREAM_CODES & stream.alerts.technical.open.keys()
        if Reset.OVERLOAD in stream.resets:
            present.add(TechnicalCode.OVERLOAD)
        if stream.resets:
            self._note_resets(stream)
        if not present and stream.alerts.technical.calm:
            return []
        moment = stream.moment(self._clock.utc_ns())
        decided = stream.heard and not stream.waiting and not stream.in_flight
        return [] if moment is None else stream.alerts.poll(moment, present, elapsed_s, decided)

    def _is_silent(self, stream: DeviceStream, now_s: float) -> bool:
        """Tell whether nothing has come for too long, and not because nobody listened, or no broker was there.

        A silence that was told lasts until something comes.
        """
        after_s = stream.silent_after_s(self._factory.config.silent_after_s)
        if now_s - stream.last_arrival_s <= after_s:
            return False
        if stream.alerts.is_open(TechnicalCode.STREAM_SILENT):
            return True
        if not self.listening or self._connected_s is None or now_s - self._connected_s <= after_s:
            return False
        return now_s >= self._caught_up_s

    def _note_resets(self, stream: DeviceStream) -> None:
        for reset in stream.resets:
            self._metrics.resets.labels(reason=reset.value).inc()
        stream.resets.clear()

    @property
    def chunks(self) -> int:
        """Chunks taken so far. Any thread may ask."""
        return self.totals.chunks + sum(stream.assembler.counters.chunks for stream in self._registry)

    def count_all(self) -> None:
        """Bring the totals up to date: a stream without events is not counted at every poll."""
        for stream in self._registry:
            self._count(stream)

    def _count(self, stream: DeviceStream) -> None:
        """Move a stream's counts since the last poll into the totals and the metrics."""
        counted, dropped = stream.assembler.counters, stream.dropped_samples
        stream.assembler.counters, stream.dropped_samples = AssemblerCounters(), 0
        self.totals.add(counted)
        self.dropped_samples += dropped
        self._metrics.dropped_samples.inc(dropped)
        self._metrics.duplicates.inc(counted.duplicates + counted.stale)
        self._metrics.gaps.labels(outcome="bridged").inc(counted.bridged_gaps)
        self._metrics.gaps.labels(outcome="lost").inc(counted.lost_gaps)

    async def _release_given_up(self) -> None:
        given_up, self._given_up = self._given_up, []
        for stream in given_up:
            self._keeper.forget(stream.device)
            if stream.model is not None:
                await self._model_thread.call(self._runtime.close_slot, stream.model.slot)
