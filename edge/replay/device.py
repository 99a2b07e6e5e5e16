"""A device on an MQTT broker: recordings cut into chunks, published when a live device would have them."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from threading import Condition, Event

import msgspec
import numpy as np
import paho.mqtt.client as mqtt
from numpy.typing import NDArray
from paho.mqtt.enums import CallbackAPIVersion

from edge.errors import RecordError, TransportError
from edge.replay.records import Recording
from edge.signal.resample import SUPPORTED_RATES_HZ
from edge.stream import wire
from edge.stream.topics import info_topic, status_topic, wave_topic

GAIN_PER_MV = 1000.0
MAX_IN_FLIGHT = 20
MAX_WAITING = 200
"""Chunks that may wait for the broker before the device waits, too."""
CONNECT_TIMEOUT_S = 10.0
OUTAGE_TIMEOUT_S = 60.0
"""How long a device waits for a broker that has gone before it gives up."""
FAREWELL_TIMEOUT_S = 10.0
RECONNECT_S = (1, 5)
WAIT_STEP_S = 0.05

Encoder = Callable[[wire.Chunk], bytes]
ENCODERS: dict[str, Encoder] = {"msgpack": wire.encode_msgpack, "json": wire.encode_json}


@dataclass(frozen=True)
class Departure:
    """A chunk and when it leaves, in seconds of stream time since the device's first sample."""

    taken_s: float
    """When its last sample was taken."""
    chunk: wire.Chunk
    late_s: float = 0.0

    @property
    def due_s(self) -> float:
        """When it leaves."""
        return self.taken_s + self.late_s


@dataclass
class Sent:
    """What a device has sent."""

    chunks: int = 0
    samples: int = 0
    bytes: int = 0


def chunks_of(
    recordings: Iterable[Recording], session: str, chunk_s: float, crossfade_s: float | None = 0.5
) -> Iterator[Departure]:
    """Cut recordings, played one after another, into chunks; each is due when its last sample would have been taken.

    With a cross-fade they are one session and one signal; with None each begins a session of its own. Recordings of one
    session must share rate and leads. Raises RecordError when they do not, or when the wire has no such rate.
    """
    number = index = 0
    elapsed_s = 0.0
    for played, samples, recording in _passages(recordings, crossfade_s):
        if recording.rate_hz not in SUPPORTED_RATES_HZ:
            raise RecordError(f"{recording.name} has {recording.rate_hz} samples per second, not {SUPPORTED_RATES_HZ}")
        if crossfade_s is None and played > 0:
            index = 0
        name = session if crossfade_s is not None else f"{session}-{played + 1}"
        size = max(1, round(chunk_s * recording.rate_hz))
        for start in range(0, len(samples), size):
            part = quantised(samples[start : start + size])
            elapsed_s += len(part) / recording.rate_hz
            yield Departure(
                elapsed_s,
                wire.Chunk(name, number, index, None, recording.rate_hz, recording.leads, part, gain=GAIN_PER_MV),
            )
            number, index = number + 1, index + len(part)


def quantised(samples_mv: NDArray[np.float64]) -> NDArray[np.int16]:
    """Turn millivolts into the device's units; NaN and what does not fit becomes the invalid sample."""
    units = np.rint(samples_mv * GAIN_PER_MV)
    valid = np.isfinite(units) & (np.abs(units) <= 32767)
    return np.where(valid, units, wire.INVALID_SAMPLE).astype(np.int16)


def _passages(
    recordings: Iterable[Recording], crossfade_s: float | None
) -> Iterator[tuple[int, NDArray[np.float64], Recording]]:
    """Give each recording's samples, its beginning faded into the end of the one before."""
    held: tuple[int, NDArray[np.float64], Recording] | None = None
    for played, recording in enumerate(recordings):
        samples = recording.samples_mv
        if held is not None:
            number, tail, before = held
            if crossfade_s:
                if (before.rate_hz, before.leads) != (recording.rate_hz, recording.leads):
                    raise RecordError(
                        f"{before.name} cannot fade into {recording.name}, which has another rate or other leads: "
                        "let each begin a session of its own (--between session)"
                    )
                count = min(round(crossfade_s * recording.rate_hz), len(tail), len(samples))
                weight = np.arange(1, count + 1)[:, None] / (count + 1)
                mixed = (1 - weight) * tail[len(tail) - count :] + weight * samples[:count]
                tail = tail[: len(tail) - count]
                samples = np.concatenate([mixed, samples[count:]])
            yield number, tail, before
        held = (played, samples, recording)
    if held is not None:
        yield held


class Device:
    """One device on a broker, with its own connection. Use it as a context manager.

    A broker that goes away is waited for, then given everything it has not acknowledged.
    """

    def __init__(self, name: str, host: str, port: int, encode: Encoder = wire.encode_msgpack) -> None:
        """Describe the device; entering the context connects it."""
        self.name, self.sent = name, Sent()
        self._address, self._encode = (host, port), encode
        self._connected = Event()
        self._acknowledged = Condition()
        self._waiting = 0  # publications the broker has not acknowledged
        self._client = mqtt.Client(CallbackAPIVersion.VERSION2, client_id=f"device-{name}")
        self._client.max_inflight_messages_set(MAX_IN_FLIGHT)
        self._client.reconnect_delay_set(*RECONNECT_S)
        self._client.will_set(status_topic(name), _status("offline"), qos=1, retain=True)
        self._client.on_connect = lambda client, data, flags, code, properties: self._greet(code.is_failure)
        self._client.on_publish = lambda *_: self._note_acknowledged()

    def __enter__(self) -> Device:
        try:
            self._client.connect(*self._address)
        except OSError as error:
            raise TransportError(
                f"no broker answers on {self._where} ({error}); start one, or name it with --broker"
            ) from None
        self._client.loop_start()
        if not self._connected.wait(CONNECT_TIMEOUT_S):
            self._client.loop_stop()
            raise TransportError(f"the broker on {self._where} does not let device {self.name} in")
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        """Leave when the broker has acknowledged everything.

        To leave sooner would lose the last chunks, and the acknowledgements left unread would reset the connection,
        upon which the broker publishes the will.
        """
        self._publish(status_topic(self.name), _status("offline"), retain=True)
        delivered = self._await_at_most(0, FAREWELL_TIMEOUT_S)
        self._client.disconnect()
        self._client.loop_stop()
        if not delivered and kind is None:
            raise TransportError(
                f"the broker on {self._where} has not acknowledged the last {self._waiting} messages of {self.name}"
            )

    def play(
        self,
        departures: Iterable[Departure],
        speed: float,
        stop: Event,
        on_sent: Callable[[wire.Chunk], None] = lambda chunk: None,
    ) -> None:
        """Publish chunks as they fall due, on a monotonic clock that does not drift, until they end or `stop` is set.

        speed: stream seconds per second. on_sent is called right before a chunk is handed to the client.
        Raises TransportError when the broker stays away.
        """
        begun_s, begun_ns = time.monotonic(), time.time_ns()
        layout = None
        for departure in departures:
            if stop.wait(max(0.0, begun_s + departure.due_s / speed - time.monotonic())):
                return
            if not self._await_at_most(MAX_WAITING, OUTAGE_TIMEOUT_S, stop):
                if stop.is_set():
                    return
                raise TransportError(f"the broker on {self._where} has been away for {OUTAGE_TIMEOUT_S:g} s")
            chunk = stamped(departure, begun_ns)
            if chunk.layout != layout:
                layout = chunk.layout
                self._publish(info_topic(self.name), _info(chunk), retain=True)
            on_sent(chunk)
            self._send(chunk)

    @property
    def _where(self) -> str:
        return f"{self._address[0]}:{self._address[1]}"

    def _send(self, chunk: wire.Chunk) -> None:
        payload = self._encode(chunk)
        self._publish(wave_topic(self.name), payload)
        self.sent.chunks += 1
        self.sent.samples += len(chunk.samples)
        self.sent.bytes += len(payload)

    def _publish(self, topic: str, payload: bytes, retain: bool = False) -> None:
        """Hand a message to the client, which keeps it until it is acknowledged, connected or not."""
        with self._acknowledged:
            self._waiting += 1
        self._client.publish(topic, payload, qos=1, retain=retain)

    def _note_acknowledged(self) -> None:
        with self._acknowledged:
            self._waiting -= 1
            self._acknowledged.notify_all()

    def _await_at_most(self, count: int, timeout_s: float, stop: Event | None = None) -> bool:
        """Wait until so few messages are unacknowledged; False when time is up or `stop` is set before."""
        deadline_s = time.monotonic() + timeout_s
        with self._acknowledged:
            while self._waiting > count:
                if time.monotonic() >= deadline_s or (stop is not None and stop.is_set()):
                    return False
                self._acknowledged.wait(WAIT_STEP_S)
        return True

    def _greet(self, refused: bool) -> None:
        if not refused:
            self._publish(status_topic(self.name), _status("online"), retain=True)
            self._connected.set()


def stamped(departure: Departure, begun_ns: int) -> wire.Chunk:
    """Return the chunk with the UTC time at which its first sample was taken, however late it leaves."""
    chunk = departure.chunk
    first_s = departure.taken_s - len(chunk.samples) / chunk.rate_hz
    return msgspec.structs.replace(chunk, time_ns=begun_ns + round(first_s * 1e9))


def _status(state: str) -> bytes:
    return msgspec.json.encode({"v": 1, "state": state})


def _info(chunk: wire.Chunk) -> bytes:
    return msgspec.json.encode(
        {
            "v": 1, "s": chunk.session, "fs": chunk.rate_hz, "leads": list(chunk.leads), "unit": chunk.unit,
            "gain": chunk.gain, "baseline": chunk.baseline,
        }
    )  # fmt: skip
