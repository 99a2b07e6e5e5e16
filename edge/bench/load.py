"""A hospital's worth of devices in one small process: sends chunks on schedule, and times the scores that come back.

Each device sends a chunk every half second, at a phase of its own. They begin one after the other over half of the
warm-up, so that the ends of hops, and what comes of a start, are spread as with devices that were switched on at any
time. Most have a healthy patient, some one who falls ill every minute, so that alerts are raised and cleared, and far
more of them than in any hospital. Devices share connections, because what is measured is the daemon and not the
broker's sockets.

Run as a process: `python -m edge.bench.load --port 1883 '{"streams": 1000, "seconds": 10}'`.
"""

from __future__ import annotations

import argparse
import re
import selectors
import struct
import sys
import time
from array import array
from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import partial
from itertools import pairwise

import msgspec
import numpy as np
from numpy.typing import NDArray

from edge.bench import packets
from edge.bench.connection import Connection, dial
from edge.bench.effort import ILL_SHARE
from edge.replay.device import quantised
from edge.replay.patient import SCRIPT, SINUS, Episode, simulate
from edge.signal.leads import STANDARD_LEADS
from edge.stream import mqtt_packets, wire
from edge.stream.topics import ROOT, wave_topic

RATE_HZ = 100
CHUNK_SAMPLES = 50
PERIOD_S = CHUNK_SAMPLES / RATE_HZ
PATTERN_S = 60
DEVICES_PER_CONNECTION = 50
DEVICE_PREFIX = "bench-"
TICK_S = 0.002
REMEMBERED_CHUNKS = 1024
MEASURING, SENT = "measuring", "sent"
"""What is told when the measuring begins, and at the end of each of its parts."""
SCORE_TOPIC = re.compile(rb"/bench-(\d+)/score$")
SCORE_INDEX = re.compile(rb'"i":(\d+)')


@dataclass(frozen=True)
class Plan:
    """What is sent: by how many devices, and for how long."""

    streams: int
    seconds: float
    warm_up_s: float = 0.0
    """Before them; sent and counted, but not timed."""
    hop_samples: int = RATE_HZ
    """How many samples of a device make a score; 0 where nobody scores."""
    ill_share: float = ILL_SHARE
    """Of the devices: those whose patient falls ill and recovers every minute."""
    parts: int = 1
    """Of the time; each is reported by itself, too."""


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
    parts_latency_ms: list[dict[str, float]]
    """Of the chunks sent in each part of the time."""
    growth_ms: float
    """Median latency of the last third of the time less that of the first: above a few, the lag grows."""
    late_ms: dict[str, float]
    """How far the generator itself fell behind its schedule: above a few, the figures say nothing of the daemon."""


class Pattern:
    """The chunks of a minute of a simulated patient, encoded once; number, index and time are filled in.

    One who is not `healthy` has ST elevation for half of it.
    """

    def __init__(self, healthy: bool = False) -> None:
        script = (Episode(SINUS, PATTERN_S),) if healthy else SCRIPT
        samples = quantised(simulate(PATTERN_S, RATE_HZ, script=script).samples_mv)
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

    def __init__(self, host: str, port: int, plan: Plan) -> None:
        self.plan, self.streams = plan, plan.streams
        patterns = {healthy: Pattern(healthy) for healthy in (True, False)}
        self._patterns = [patterns[not is_ill(device, plan.ill_share)] for device in range(plan.streams)]
        self._selector = selectors.DefaultSelector()
        count = -(-self.streams // DEVICES_PER_CONNECTION)
        self._senders = [self._connect(host, port, f"load-{k}") for k in range(count)]
        self._watcher = self._connect(host, port, "load-watcher")
        self._watcher.unsent += packets.subscribe(f"{ROOT}/+/score", 0)
        self._heads = [self._head(device) for device in range(self.streams)]
        self._sent_at = np.zeros((self.streams, REMEMBERED_CHUNKS))
        self._scored_s, self._latencies_s = array("d"), array("d")  # when a chunk was sent, how long until its score
        self._late_s = array("d")
        self._measured_from_s = 0.0
        self._turns = 0
        self._starts = 2  # periods in which devices begin
        self.sent = self.scores = 0

    def __enter__(self) -> Load:
        return self

    def __exit__(self, *_: object) -> None:
        for connection in (*self._senders, self._watcher):
            connection.sock.close()
        self._selector.close()

    def run(self, settle_s: float = 3.0, tell: Callable[[str], None] = lambda event: None) -> Report:
        """Send what is planned, then wait for what is still on its way, settle_s at most.

        `tell` hears when the MEASURING begins and when all of a part is SENT.
        """
        warm_up_s, parts = self.plan.warm_up_s, self.plan.parts
        begun_s = time.monotonic() + 0.2
        self._starts = 2 * max(1, int(warm_up_s / (4 * PERIOD_S)))  # an even number: hops may be two chunks long
        self._measured_from_s = begun_s + warm_up_s
        ends_s = [warm_up_s + self.plan.seconds * part / parts for part in range(parts + 1)]
        for end_s in ends_s:
            periods = round(end_s / PERIOD_S)
            while self._turns < periods * self.streams:
                self._send_due(begun_s, time.monotonic(), periods * self.streams)
                self._exchange(TICK_S)
            tell(MEASURING if end_s == warm_up_s else SENT)
        due = sum(self._scores_due(device) for device in range(self.streams))
        settled_s = time.monotonic() + settle_s
        while (self.scores < due or self._acknowledged < self.sent) and time.monotonic() < settled_s:
            self._exchange(TICK_S)
        return self._report(due, [begun_s + end_s for end_s in ends_s])

    def _send_due(self, begun_s: float, now_s: float, total: int) -> None:
        due = min(total, int((now_s - begun_s) / PERIOD_S * self.streams) + 1) if now_s >= begun_s else 0
        now_ns = time.time_ns()
        while self._turns < due:
            period, device = divmod(self._turns, self.streams)
            if period >= self._begins_at(device):
                self._send(device, period - self._begins_at(device), now_s, now_ns)
                if now_s >= self._measured_from_s:
                    self._late_s.append(now_s - (begun_s + self._turns / self.streams * PERIOD_S))
            self._turns += 1

    def _send(self, device: int, number: int, now_s: float, now_ns: int) -> None:
        connection = self._senders[device // DEVICES_PER_CONNECTION]
        connection.unsent += self._heads[device]
        connection.unsent += struct.pack(">H", connection.next_number())
        connection.unsent += self._patterns[device].payload(number, device, now_ns)
        self._sent_at[device, number % REMEMBERED_CHUNKS] = now_s
        self.sent += 1

    def _scores_due(self, device: int) -> int:
        """Return how many scores the chunks sent so far make for a device, once it has had all its turns."""
        chunks = max(0, self._turns // self.streams - self._begins_at(device))
        return chunks * CHUNK_SAMPLES // self.plan.hop_samples if self.plan.hop_samples else 0

    def _exchange(self, timeout_s: float) -> None:
        for connection in self._senders:
            connection.flush()
        self._watcher.flush()
        for key, _ in self._selector.select(timeout_s):
            connection = key.data
            for kind, body in connection.frames.feed(connection.receive()):
                if kind == mqtt_packets.PUBLISH:
                    self._note_score(body)
                elif kind == mqtt_packets.PUBACK:
                    connection.acknowledged += 1

    def _note_score(self, body: memoryview) -> None:
        topic, payload = packets.published(body)
        device, index = SCORE_TOPIC.search(topic), SCORE_INDEX.search(payload)
        if device is None or index is None:
            return
        number = int(index[1]) // CHUNK_SAMPLES
        sent_s = float(self._sent_at[int(device[1]), number % REMEMBERED_CHUNKS])
        if sent_s >= self._measured_from_s:
            self._scored_s.append(sent_s)
            self._latencies_s.append(time.monotonic() - sent_s)
        self.scores += 1

    def _begins_at(self, device: int) -> int:
        """Return in which period a device sends its first chunk."""
        return device % self._starts

    @property
    def _acknowledged(self) -> int:
        return sum(connection.acknowledged for connection in self._senders)

    def _report(self, scores_due: int, ends_s: list[float]) -> Report:
        scored_s, latencies_s = np.array(self._scored_s), np.array(self._latencies_s)
        return Report(
            streams=self.streams,
            seconds=self.plan.seconds,
            sent=self.sent,
            acknowledged=self._acknowledged,
            scores=self.scores,
            scores_due=scores_due,
            latency_ms=_quantiles_ms(latencies_s),
            parts_latency_ms=[
                _quantiles_ms(latencies_s[(scored_s >= begun_s) & (scored_s < ended_s)])
                for begun_s, ended_s in pairwise(ends_s)
            ],
            growth_ms=growth_ms(scored_s, latencies_s),
            late_ms=_quantiles_ms(np.array(self._late_s)),
        )

    def _connect(self, host: str, port: int, client_id: str) -> Connection:
        connection = dial(host, port, client_id)
        connection.sock.setblocking(False)
        self._selector.register(connection.sock, selectors.EVENT_READ, connection)
        return connection

    def _head(self, device: int) -> bytes:
        payload = bytes(self._patterns[device].payloads[0])
        packet, place = packets.publish(wave_topic(f"{DEVICE_PREFIX}{device}"), payload)
        return bytes(packet[:place])


def is_ill(device: int, share: float) -> bool:
    """Whether a device is one of those that make up the share, evenly spread."""
    return int((device + 1) * share) > int(device * share)


def _quantiles_ms(values_s: NDArray[np.float64]) -> dict[str, float]:
    if not len(values_s):
        return {}
    median, p99 = np.quantile(values_s, [0.5, 0.99])
    named = {"median": median, "p99": p99, "max": values_s.max()}
    return {name: round(float(value) * 1000, 3) for name, value in named.items()}


def growth_ms(sent_s: NDArray[np.float64], latencies_s: NDArray[np.float64]) -> float:
    """Return by how much the median latency of what was sent in the last third of the time exceeds the first third's.

    Both (scores,), in seconds.
    """
    if not len(sent_s):
        return 0.0
    third = (sent_s.max() - sent_s.min()) / 3
    first, last = latencies_s[sent_s <= sent_s.min() + third], latencies_s[sent_s >= sent_s.max() - third]
    return round(float(np.median(last) - np.median(first)) * 1000, 3)


def main() -> int:
    """Run as a process: a line when the measuring begins, one when each part is sent, then the report as JSON."""
    parser = argparse.ArgumentParser(prog="python -m edge.bench.load", description=__doc__)
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("plan", help="what is sent, as JSON")
    args = parser.parse_args()
    with Load(args.host, args.port, msgspec.json.decode(args.plan, type=Plan)) as load:
        report = load.run(tell=partial(print, flush=True))
    sys.stdout.buffer.write(msgspec.json.encode(asdict(report)) + b"\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
