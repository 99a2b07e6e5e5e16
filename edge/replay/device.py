"""A device on an MQTT broker: recordings cut into chunks, published when a live device would have them."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from threading import Event

import msgspec
import numpy as np
import paho.mqtt.client as mqtt
from numpy.typing import NDArray
from paho.mqtt.enums import CallbackAPIVersion

from edge.errors import TransportError
from edge.replay.records import Recording
from edge.stream import wire
from edge.stream.topics import info_topic, status_topic, wave_topic

GAIN_PER_MV = 1000.0
MAX_IN_FLIGHT = 20
MAX_WAITING = 200
"""Chunks that may wait for the broker before the device waits, too."""
CONNECT_TIMEOUT_S = 10.0
WAIT_STEP_S = 0.05

Encoder = Callable[[wire.Chunk], bytes]
ENCODERS: dict[str, Encoder] = {"msgpack": wire.encode_msgpack, "json": wire.encode_json}


@dataclass(frozen=True)
class Departure:
    """A chunk and when it leaves, in seconds of stream time since the device's first sample."""

    due_s: float
    chunk: wire.Chunk


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
    session must share rate and leads. Raises ValueError when they do not.
    """
    number = index = 0
    elapsed_s = 0.0
    for played, samples, recording in _passages(recordings, crossfade_s):
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
                    raise ValueError(f"{recording.name} and {before.name} differ in rate or leads: start a new session")
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
    """One device on a broker, with its own connection. Use it as a context manager."""

    def __init__(self, name: str, host: str, port: int, encode: Encoder = wire.encode_msgpack) -> None:
        """Describe the device; entering the context connects it."""
        self.name, self.sent = name, Sent()
        self._address, self._encode = (host, port), encode
        self._connected = Event()
        self._client = mqtt.Client(CallbackAPIVersion.VERSION2, client_id=f"device-{name}")
        self._client.max_inflight_messages_set(MAX_IN_FLIGHT)
        self._client.will_set(status_topic(name), _status("offline"), qos=1, retain=True)
        self._client.on_connect = lambda client, data, flags, code, properties: self._greet(code.is_failure)

    def __enter__(self) -> Device:
        try:
            self._client.connect(*self._address)
        except OSError as error:
            host, port = self._address
            raise TransportError(
                f"no broker answers on {host}:{port} ({error}); start one, or name it with --broker"
            ) from None
        self._client.loop_start()
        if not self._connected.wait(CONNECT_TIMEOUT_S):
            self._client.loop_stop()
            raise TransportError(
                f"the broker on {self._address[0]}:{self._address[1]} does not let device {self.name} in"
            )
        return self

    def __exit__(self, *_: object) -> None:
        self._client.publish(status_topic(self.name), _status("offline"), qos=1, retain=True)
        deadline_s = time.monotonic() + CONNECT_TIMEOUT_S
        while self._client.want_write() and time.monotonic() < deadline_s:
            self._connected.wait(WAIT_STEP_S)
        self._client.disconnect()
        self._client.loop_stop()

    def play(
        self,
        departures: Iterable[Departure],
        speed: float,
        stop: Event,
        on_sent: Callable[[wire.Chunk], None] = lambda chunk: None,
    ) -> None:
        """Publish chunks as they fall due, on a monotonic clock that does not drift, until they end or `stop` is set.

        speed: stream seconds per second. on_sent is called right before a chunk is handed to the client.
        """
        begun_s, begun_ns = time.monotonic(), time.time_ns()
        layout = None
        for departure in departures:
            if stop.wait(max(0.0, begun_s + departure.due_s / speed - time.monotonic())):
                return
            chunk = stamped(departure, begun_ns)
            if chunk.layout != layout:
                layout = chunk.layout
                self._client.publish(info_topic(self.name), _info(chunk), qos=1, retain=True)
            on_sent(chunk)
            self._publish(chunk, stop)

    def _publish(self, chunk: wire.Chunk, stop: Event) -> None:
        payload = self._encode(chunk)
        info = self._client.publish(wave_topic(self.name), payload, qos=1)
        self.sent.chunks += 1
        self.sent.samples += len(chunk.samples)
        self.sent.bytes += len(payload)
        if self.sent.chunks % MAX_WAITING == 0:  # a broker slower than the device holds it up here
            while not info.is_published() and not stop.wait(WAIT_STEP_S):
                pass

    def _greet(self, refused: bool) -> None:
        if not refused:
            self._client.publish(status_topic(self.name), _status("online"), qos=1, retain=True)
            self._connected.set()


def stamped(departure: Departure, begun_ns: int) -> wire.Chunk:
    """Return the chunk with the UTC time of its first sample, in stream time from the device's start."""
    chunk = departure.chunk
    first_s = departure.due_s - len(chunk.samples) / chunk.rate_hz
    return wire.Chunk(
        chunk.session, chunk.number, chunk.index, begun_ns + round(first_s * 1e9), chunk.rate_hz, chunk.leads,
        chunk.samples, chunk.unit, chunk.gain, chunk.baseline, chunk.flags,
    )  # fmt: skip


def _status(state: str) -> bytes:
    return msgspec.json.encode({"v": 1, "state": state})


def _info(chunk: wire.Chunk) -> bytes:
    return msgspec.json.encode(
        {
            "v": 1, "s": chunk.session, "fs": chunk.rate_hz, "leads": list(chunk.leads), "unit": chunk.unit,
            "gain": chunk.gain, "baseline": chunk.baseline,
        }
    )  # fmt: skip
