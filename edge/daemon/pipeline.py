"""The loop from waiting hops to scores and alerts: take a batch, have the model score it, decide, publish."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass

import msgspec

from edge.alerts.events import AlertEvent
from edge.clock import Clock
from edge.daemon.device_stream import DeviceStream, WaitingHop
from edge.daemon.metrics import Metrics
from edge.daemon.model_states import ModelStates
from edge.daemon.model_thread import Batch, ModelThread
from edge.daemon.outgoing import Outgoing
from edge.daemon.registry import Registry
from edge.daemon.stream_alerts import by_class
from edge.monitor.engine import HopScore
from edge.runtime.base import Runtime
from edge.signal.quality import QualityReport
from edge.stream.topics import score_topic

ScoredBatch = Sequence[tuple[DeviceStream, WaitingHop, HopScore]]

BATCHES_IN_HAND = 2
"""One that the model works on and one behind it, so that it need not wait until the loop has time for it."""


@dataclass(frozen=True)
class Scoring:
    """A batch that the model was given."""

    batch: Batch
    begun_s: float
    scores: asyncio.Future[list[HopScore]]


class Pipeline:
    """Scores what waits, oldest first. Everything but the model itself runs on the event loop."""

    def __init__(
        self, registry: Registry, runtime: Runtime, model_thread: ModelThread, outgoing: Outgoing, clock: Clock,
        metrics: Metrics, max_batch: int,
    ) -> None:  # fmt: skip
        self.publish_scores = True
        self.batches = 0
        """Batches scored so far: what a watchdog may call progress."""
        self._registry, self._runtime, self._model_thread = registry, runtime, model_thread
        self._outgoing, self._clock, self._metrics, self._max_batch = outgoing, clock, metrics, max_batch
        self.states = ModelStates(registry, runtime.bundle.manifest.state_monitor, metrics)
        self._scored = {state: metrics.scores.labels(state=state) for state in ("ready", "warming")}
        self._model_name = f"{runtime.bundle.manifest.name}-{runtime.bundle.manifest.version}"
        self._wake = asyncio.Event()

    def wake(self) -> None:
        """Hops wait."""
        self._wake.set()

    @property
    def busy(self) -> bool:
        """Whether hops wait or are being scored."""
        return any(stream.waiting or stream.in_flight for stream in self._registry)

    async def run(self) -> None:
        """Score until cancelled. While a batch is decided on and published, the model works on the next."""
        while True:
            await self._wake.wait()
            self._wake.clear()
            in_hand: deque[Scoring] = deque()
            try:
                while self._fill(in_hand):
                    scored = await self._finish(in_hand.popleft())
                    self._fill(in_hand)
                    await self._conclude_all(scored)
            finally:
                for scoring in in_hand:
                    self._registry.release(stream for stream, _ in scoring.batch)

    def _fill(self, in_hand: deque[Scoring]) -> bool:
        """Give the model what waits, as many batches as it may have in hand; return whether it has any."""
        while len(in_hand) < BATCHES_IN_HAND and (batch := self._registry.take_batch(self._max_batch)):
            begun_s = self._clock.monotonic_s()
            in_hand.append(Scoring(batch, begun_s, self._model_thread.score(batch)))
        return bool(in_hand)

    async def _finish(self, scoring: Scoring) -> ScoredBatch:
        try:
            scores = await scoring.scores
        except BaseException:
            self._registry.release(stream for stream, _ in scoring.batch)
            raise
        self._metrics.inference_ms.observe((self._clock.monotonic_s() - scoring.begun_s) * 1000)
        self._metrics.batch_size.observe(len(scoring.batch))
        return [(stream, entry, score) for (stream, entry), score in zip(scoring.batch, scores, strict=True)]

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
                stored = self._outgoing.take(events)
                stored.add_done_callback(lambda _: self._go_on(waiting))
        self.batches += 1

    def _go_on(self, streams: Sequence[DeviceStream]) -> None:
        self._registry.release(streams)
        self.wake()

    async def _conclude(self, stream: DeviceStream, entry: WaitingHop, score: HopScore) -> list[AlertEvent]:
        """Decide on one stream's score and publish it."""
        latency_ms = (self._clock.monotonic_s() - entry.arrived_s) * 1000
        moment = entry.moment(self._clock.utc_ns(), round(latency_ms, 2))
        if score.fault is not None:
            self.states.note_reset(stream, score.fault, score.state)
        suppressed = stream.alerts.classes.suppressed
        events, quality = stream.alerts.step(moment, entry.hop, score)
        stream.changed = True
        if stream.alerts.classes.suppressed > suppressed:
            self._metrics.suppressed_alerts.inc(stream.alerts.classes.suppressed - suppressed)
        self._metrics.hop_latency_ms.observe(latency_ms)
        self._scored[_state(score)].inc()
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
                "model": self._model_name,
                "runtime": self._runtime.name,
            }
        )


def _state(score: HopScore) -> str:
    return "ready" if score.ready else "warming"
