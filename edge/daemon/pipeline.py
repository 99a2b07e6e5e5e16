"""The loop from waiting hops to scores and alerts: take a batch, run the model in its thread, decide, publish."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from functools import partial

import msgspec

from edge.alerts.events import AlertEvent
from edge.clock import Clock
from edge.daemon.device_stream import DeviceStream, WaitingHop
from edge.daemon.metrics import Metrics
from edge.daemon.model_states import ModelStates
from edge.daemon.outgoing import Outgoing
from edge.daemon.registry import Registry
from edge.daemon.stream_alerts import by_class
from edge.daemon.workers import Worker
from edge.monitor.engine import HopScore, score_hops
from edge.runtime.base import Runtime
from edge.signal.quality import QualityReport
from edge.stream.topics import score_topic

Batch = Sequence[tuple[DeviceStream, WaitingHop]]
ScoredBatch = Sequence[tuple[DeviceStream, WaitingHop, HopScore]]


class Pipeline:
    """Scores what waits, oldest first. Everything but the model itself runs on the event loop."""

    def __init__(
        self, registry: Registry, runtime: Runtime, model_thread: Worker, outgoing: Outgoing, clock: Clock,
        metrics: Metrics, max_batch: int,
    ) -> None:  # fmt: skip
        self.publish_scores = True
        self.batches = 0
        """Batches scored so far: what a watchdog may call progress."""
        self._registry, self._runtime, self._model_thread = registry, runtime, model_thread
        self._outgoing, self._clock, self._metrics, self._max_batch = outgoing, clock, metrics, max_batch
        self.states = ModelStates(registry, runtime.bundle.manifest.state_monitor, metrics)
        self._wake = asyncio.Event()
        self._storing: set[asyncio.Task[None]] = set()

    def wake(self) -> None:
        """Hops wait."""
        self._wake.set()

    @property
    def busy(self) -> bool:
        """Whether hops wait or are being scored."""
        return any(stream.waiting or stream.in_flight for stream in self._registry)

    async def run(self) -> None:
        """Score until cancelled. While the model works on one batch, the one before it is decided on and published."""
        while True:
            await self._wake.wait()
            self._wake.clear()
            self._check_stored()
            scored: ScoredBatch | None = None
            while (batch := self._registry.take_batch(self._max_batch)) or scored:
                scoring = asyncio.ensure_future(self._score(batch)) if batch else None
                try:
                    if scored is not None:
                        await self._conclude_all(scored)
                finally:
                    scored = None if scoring is None else await scoring

    async def _score(self, batch: Batch) -> ScoredBatch:
        begun_s = self._clock.monotonic_s()
        try:
            scores = await self._model_thread.call(partial(_advance, self._runtime, batch))
        except BaseException:
            self._registry.release(stream for stream, _ in batch)
            raise
        self._metrics.inference_ms.observe((self._clock.monotonic_s() - begun_s) * 1000)
        self._metrics.batch_size.observe(len(batch))
        return [(stream, entry, score) for (stream, entry), score in zip(batch, scores, strict=True)]

    async def _conclude_all(self, scored: ScoredBatch) -> None:
        """Decide on the scores of a batch, publish them, and have stored what becomes of alerts.

        Only a stream with something to store waits for the disk: no snapshot of it may be ahead of its alerts.
        """
        events: list[AlertEvent] = []
        waiting: list[DeviceStream] = []
        try:
            for stream, entry, score in scored:
                if found := await self._conclude(stream, entry, score):
                    events += found
                    waiting.append(stream)
        finally:
            self._registry.release(stream for stream, _, _ in scored if stream not in waiting)
            if events:
                self._storing.add(asyncio.create_task(self._store(events, waiting), name="alerts"))
        self.batches += 1

    async def _store(self, events: Sequence[AlertEvent], streams: Sequence[DeviceStream]) -> None:
        try:
            await self._outgoing.alert(events)
        finally:
            self._registry.release(streams)
            self.wake()

    def _check_stored(self) -> None:
        """Let go of what is stored; raises what storing died of."""
        for task in [task for task in self._storing if task.done()]:
            self._storing.remove(task)
            task.result()

    async def _conclude(self, stream: DeviceStream, entry: WaitingHop, score: HopScore) -> list[AlertEvent]:
        """Decide on one stream's score and publish it."""
        latency_ms = (self._clock.monotonic_s() - entry.arrived_s) * 1000
        moment = entry.moment(self._clock.utc_ns(), round(latency_ms, 2))
        if score.fault is not None:
            self.states.note_reset(stream, score.fault, score.state)
        suppressed = stream.alerts.classes.suppressed
        events, quality = stream.alerts.step(moment, entry.hop, score)
        stream.changed = True
        self._metrics.suppressed_alerts.inc(stream.alerts.classes.suppressed - suppressed)
        self._metrics.hop_latency_ms.observe(latency_ms)
        self._metrics.scores.labels(state=_state(score)).inc()
        if self.publish_scores:
            await self._outgoing.publish(score_topic(stream.device), self._score_message(entry, score, quality))
        return events

    def _score_message(self, entry: WaitingHop, score: HopScore, quality: QualityReport) -> bytes:
        manifest = self._runtime.bundle.manifest
        return msgspec.json.encode(
            {
                "v": 1,
                "s": entry.layout.session,
                "i": score.last_index,
                "t": entry.time_ns,
                "state": _state(score),
                "p": by_class(manifest, score.probabilities) if score.healthy else None,
                "quality": quality.score,
                "model": f"{manifest.name}-{manifest.version}",
                "runtime": self._runtime.name,
            }
        )


def _advance(runtime: Runtime, batch: Batch) -> list[HopScore]:
    """In the runtime's thread: give every stream its place and advance all by a hop."""
    return score_hops(runtime, [stream.join_model(runtime) for stream, _ in batch], [entry.hop for _, entry in batch])


def _state(score: HopScore) -> str:
    return "ready" if score.ready else "warming"
