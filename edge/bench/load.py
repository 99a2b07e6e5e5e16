"""A hospital's worth of devices in one small process: sends chunks on schedule, and times the scores that come back.

Each device sends a chunk every half second, at a phase of its own. Devices share connections, because what is measured
is the daemon and not the broker's sockets. Run as a process: `python -m edge.bench.load --port 1883 --streams 1000`.
"""

from __future__ import annotations

import argparse
import re
import selectors
import socket
import struct
import sys
import time
from dataclasses import asdict, dataclass, field

import msgspec
import numpy as np

from edge.bench import packets
from edge.replay.device import quantised
from edge.replay.patient import simulate
from edge.signal.leads import STANDARD_LEADS
from edge.stream import wire
from edge.stream.topics import ROOT, wave_topic

RATE_HZ = 100
CHUNK_SAMPLES = 50
PERIOD_S = CHUNK_SAMPLES / RATE_HZ
PATTERN_S = 60
DEVICES_PER_CONNECTION = 50
DEVICE_PREFIX = "bench-"
TICK_S = 0.002
REMEMBERED_CHUNKS = 1024
SCORE_TOPIC = re.compile(rb"/bench-(\d+)/score$")
SCORE_INDEX = re.compile(rb'"i":(\d+)')


@dataclass
class Report:
    """What was sent and what came back; times in milliseconds."""

    streams: int
    seconds: float
    sent: int
    acknowledged: int
    scores: int
    scores_due: int
    latency_ms: dict[str, float]
    late_ms: dict[str, float]
    """How far the generator itself fell behind its schedule: above a few, the figures say nothing of the daemon."""


@dataclass
class Connection:
    """One client's socket, what it still has to send, and its packet numbers."""

    sock: socket.socket
    unsent: bytearray = field(default_factory=bytearray)
    frames: packets.Frames = field(default_factory=packets.Frames)
    number: int = 0
    acknowledged: int = 0

    def next_number(self) -> int:
        """Return the next packet number, 1 to 65535."""
        self.number = self.number % packets.MAX_PACKET_NUMBER + 1
        return self.number

    def flush(self) -> None:
        """Send what the socket takes."""
        if self.unsent:
            try:
                del self.unsent[: self.sock.send(self.unsent)]
            except BlockingIOError:
                return

    def receive(self) -> bytes:
        """Return what has come; raises ConnectionError when the broker hung up."""
        try:
            data = self.sock.recv(1 << 18)
        except BlockingIOError:
            return b""
        if not data:
            raise ConnectionError("the broker closed a connection of the load generator")
        return data


class Pattern:
    """The chunks of a minute of a simulated patient, encoded once; number, index and time are filled in."""

    def __init__(self) -> None:
        samples = quantised(simulate(PATTERN_S, RATE_HZ).samples_mv)
        marks = [2**40 + k for k in range(3)]
        self.payloads = [
            bytearray(wire.encode_msgpack(wire.Chunk("bench", marks[0], marks[1], marks[2], RATE_HZ, STANDARD_LEADS,
                                                     samples[at : at + CHUNK_SAMPLES])))
            for at in range(0, len(samples), CHUNK_SAMPLES)
        ]  # fmt: skip
        self._places = [self.payloads[0].index(struct.pack(">Q", mark)) for mark in marks]

    def payload(self, number: int, shift: int, now_ns: int) -> bytearray:
        """Return a device's chunk; the same memory is used again for the next."""
        payload = self.payloads[(number + shift) % len(self.payloads)]
        for place, value in zip(self._places, (number, number * CHUNK_SAMPLES, now_ns), strict=True):
            struct.pack_into(">Q", payload, place, value)
        return payload


class Load:
    """The devices and the one who watches their scores; a context manager that hangs up."""

    def __init__(self, host: str, port: int, streams: int) -> None:
        self.streams = streams
        self._pattern = Pattern()
        self._selector = selectors.DefaultSelector()
        count = -(-streams // DEVICES_PER_CONNECTION)
        self._senders = [self._connect(host, port, f"load-{k}") for k in range(count)]
        self._watcher = self._connect(host, port, "load-watcher")
        self._watcher.unsent += packets.subscribe(f"{ROOT}/+/score", 0)
        self._heads = [self._head(device) for device in range(streams)]
        self._sent_at = np.zeros((streams, REMEMBERED_CHUNKS))
        self._latencies_s: list[float] = []
        self._late_s: list[float] = []
        self.sent = self.scores = 0

    def __enter__(self) -> Load:
        return self

    def __exit__(self, *_: object) -> None:
        for connection in (*self._senders, self._watcher):
            connection.sock.close()
        self._selector.close()

    def run(self, seconds: float, settle_s: float = 3.0) -> Report:
        """Send for so long, then wait for what is still on its way."""
        begun_s = time.monotonic() + 0.2
        total = round(seconds / PERIOD_S) * self.streams
        while self.sent < total:
            now_s = time.monotonic()
            self._send_due(begun_s, now_s, total)
            self._exchange(TICK_S)
        end_s = time.monotonic() + settle_s
        while time.monotonic() < end_s:
            self._exchange(TICK_S)
        return self._report(seconds)

    def _send_due(self, begun_s: float, now_s: float, total: int) -> None:
        due = min(total, int((now_s - begun_s) / PERIOD_S * self.streams) + 1) if now_s >= begun_s else 0
        now_ns = time.time_ns()
        while self.sent < due:
            number, device = divmod(self.sent, self.streams)
            connection = self._senders[device // DEVICES_PER_CONNECTION]
            connection.unsent += self._heads[device]
            connection.unsent += struct.pack(">H", connection.next_number())
            connection.unsent += self._pattern.payload(number, device, now_ns)
            self._sent_at[device, number % REMEMBERED_CHUNKS] = now_s
            self._late_s.append(now_s - (begun_s + self.sent / self.streams * PERIOD_S))
            self.sent += 1

    def _exchange(self, timeout_s: float) -> None:
        for connection in self._senders:
            connection.flush()
        self._watcher.flush()
        for key, _ in self._selector.select(timeout_s):
            connection = key.data
            for kind, body in connection.frames.feed(connection.receive()):
                if kind == packets.PUBLISH:
                    self._note_score(body)
                elif kind == packets.PUBACK:
                    connection.acknowledged += 1

    def _note_score(self, body: memoryview) -> None:
        topic, payload = packets.published(body)
        device, index = SCORE_TOPIC.search(topic), SCORE_INDEX.search(payload)
        if device is None or index is None:
            return
        number = int(index[1]) // CHUNK_SAMPLES
        self._latencies_s.append(time.monotonic() - self._sent_at[int(device[1]), number % REMEMBERED_CHUNKS])
        self.scores += 1

    def _report(self, seconds: float) -> Report:
        return Report(
            streams=self.streams,
            seconds=seconds,
            sent=self.sent,
            acknowledged=sum(connection.acknowledged for connection in self._senders),
            scores=self.scores,
            scores_due=int(seconds) * self.streams,
            latency_ms=_quantiles_ms(self._latencies_s),
            late_ms=_quantiles_ms(self._late_s),
        )

    def _connect(self, host: str, port: int, client_id: str) -> Connection:
        sock = socket.create_connection((host, port), timeout=10.0)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        sock.sendall(packets.connect(client_id))
        answer = sock.recv(4)
        if answer[:1] != b"\x20" or answer[3:4] != b"\0":
            raise ConnectionError(f"the broker at {host}:{port} refused the load generator: {answer.hex()}")
        sock.setblocking(False)
        connection = Connection(sock)
        self._selector.register(sock, selectors.EVENT_READ, connection)
        return connection

    def _head(self, device: int) -> bytes:
        packet, place = packets.publish(wave_topic(f"{DEVICE_PREFIX}{device}"), bytes(self._pattern.payloads[0]))
        return bytes(packet[:place])


def _quantiles_ms(values_s: list[float]) -> dict[str, float]:
    if not values_s:
        return {}
    median, p99 = np.quantile(values_s, [0.5, 0.99])
    named = {"median": median, "p99": p99, "max": max(values_s)}
    return {name: round(float(value) * 1000, 3) for name, value in named.items()}


def main() -> int:
    """Run as a process; the report is one JSON object on standard output."""
    parser = argparse.ArgumentParser(prog="python -m edge.bench.load", description=__doc__)
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--streams", type=int, default=100)
    parser.add_argument("--seconds", type=float, default=10.0)
    args = parser.parse_args()
    with Load(args.host, args.port, args.streams) as load:
        report = load.run(args.seconds)
    sys.stdout.buffer.write(msgspec.json.encode(asdict(report)) + b"\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
