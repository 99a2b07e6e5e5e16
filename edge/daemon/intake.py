"""What comes in: a message becomes samples of its device's stream, or a report of why it could not."""

from __future__ import annotations

from collections.abc import Callable

from edge.clock import Clock
from edge.daemon.dead_letters import DeadLetters, reason_of
from edge.daemon.device_stream import DeviceStream
from edge.daemon.metrics import Metrics
from edge.daemon.registry import TOO_MANY_STREAMS, Registry
from edge.daemon.transport import Message
from edge.errors import EcgEdgeError, PayloadError
from edge.stream import wire
from edge.stream.topics import device_of

Evict = Callable[[DeviceStream], None]
Report = Callable[[bytes], None]


class Intake:
    """Reads wave messages. Whatever comes is acknowledged: one bad message must not stall a stream."""

    def __init__(
        self,
        registry: Registry,
        clock: Clock,
        metrics: Metrics,
        max_payload_bytes: int,
        on_hops: Callable[[], None],
        on_evict: Evict,
        on_dead: Report,
    ) -> None:
        """on_hops is called when hops wait, on_evict with a stream that made room, on_dead with a report to publish."""
        self.max_payload_bytes = max_payload_bytes
        self._registry, self._clock, self._metrics = registry, clock, metrics
        self._on_hops, self._on_evict, self._on_dead = on_hops, on_evict, on_dead
        self._dead_letters = DeadLetters()

    def receive(self, message: Message) -> None:
        """Take one message and acknowledge it."""
        now_s = self._clock.monotonic_s()
        try:
            stream = self._deliver(message, now_s)
        except EcgEdgeError as error:
            self._refuse(message, error, now_s)
        else:
            self._registry.note_missing(stream)
            if stream.waiting and self._registry.enqueue(stream):
                self._on_hops()
        finally:
            message.ack()

    def _deliver(self, message: Message, now_s: float) -> DeviceStream:
        device = device_of(message.topic, "wave")
        if message.retain:
            raise PayloadError("retained", "the broker kept it from before: old ECG, not what happens now")
        if len(message.payload) > self.max_payload_bytes:
            raise PayloadError("too-large", f"{len(message.payload)} bytes, the limit is {self.max_payload_bytes}")
        chunk = wire.decode(message.payload)
        stream, evicted = self._registry.find_or_add(device, now_s)
        if evicted is not None:
            self._on_evict(evicted)
        stream.receive(chunk, now_s)
        self._metrics.chunks.value += 1
        self._metrics.samples.value += len(chunk.samples)
        return stream

    def _refuse(self, message: Message, error: EcgEdgeError, now_s: float) -> None:
        reason = reason_of(error)
        self._metrics.payload_errors.inc(reason)
        self._metrics.refused_streams.inc(reason == TOO_MANY_STREAMS)
        report = self._dead_letters.report(message.topic, message.payload, error, now_s)
        if report is not None:
            self._on_dead(report)
