"""What comes in: bounded in streams, in reports and in memory, whatever the bytes are."""

from __future__ import annotations

import hashlib
import json
import random
import tracemalloc

import pytest

from edge.daemon.alert_settings import alert_policy
from edge.daemon.config import AlertsConfig, StreamsConfig
from edge.daemon.dead_letters import BURST, REPORTS_PER_S, DeadLetters
from edge.daemon.intake import Intake
from edge.daemon.metrics import Metrics
from edge.daemon.registry import Registry
from edge.daemon.streams import StreamFactory
from edge.daemon.transport import Message
from edge.errors import PayloadError, TopicError
from edge.runtime.bundle import load_bundle
from edge.stream.wire import encode_json, encode_msgpack
from tests.ecg import chunks_of, patient

MANIFEST = load_bundle().manifest
CHUNKS = chunks_of(patient(4))
RANDOM_PAYLOADS = 100_000


class StillClock:
    """A clock that only moves when it is told to."""

    def __init__(self) -> None:
        self.now_s = 0.0

    def monotonic_s(self) -> float:
        return self.now_s

    def utc_ns(self) -> int:
        return 0


class Desk:
    """An intake with all that is behind it, and what it did."""

    def __init__(self, max_streams: int = 10, silent_after_s: float = 5.0) -> None:
        self.clock, self.metrics = StillClock(), Metrics()
        config = StreamsConfig(max_streams=max_streams, silent_after_s=silent_after_s)
        factory = StreamFactory(config, MANIFEST, "node", "r", alert_policy(AlertsConfig(), MANIFEST))
        self.registry = Registry(max_streams, silent_after_s, factory.make)
        self.evicted: list[str] = []
        self.reports: list[dict[str, object]] = []
        self.woken = self.acknowledged = 0
        self.intake = Intake(
            self.registry, self.clock, self.metrics, 10_000, self._wake,
            lambda stream: self.evicted.append(stream.device), lambda report: self.reports.append(json.loads(report)),
        )  # fmt: skip

    def receive(self, payload: bytes, device: str = "bed", retain: bool = False) -> None:
        self.intake.receive(Message(f"ecg/v1/{device}/wave", payload, 1, retain, False, self._acknowledge))

    def refused(self, reason: str) -> float:
        return self.metrics.registry.get_sample_value("ecg_edge_payload_errors_total", {"reason": reason}) or 0.0

    def value(self, name: str) -> float:
        return self.metrics.registry.get_sample_value(f"ecg_edge_{name}") or 0.0

    def _wake(self) -> None:
        self.woken += 1

    def _acknowledge(self) -> None:
        self.acknowledged += 1


def test_a_good_chunk_is_taken_acknowledged_and_wakes_the_pipeline():
    desk = Desk()
    desk.receive(encode_msgpack(CHUNKS[0]))
    assert (desk.acknowledged, desk.woken, len(desk.registry)) == (1, 1, 1)
    assert (desk.value("chunks_total"), desk.value("samples_total")) == (1, 100)
    assert desk.reports == []


def test_a_hundred_thousand_random_payloads_are_refused_acknowledged_and_forgotten():
    desk, noise = Desk(), random.Random(1)
    templates = [encode_msgpack(CHUNKS[0])[:400], encode_json(CHUNKS[0])[:400]]
    tracemalloc.start()
    for number in range(RANDOM_PAYLOADS):
        if number % 4 == 0:  # something that begins like a chunk gets further than noise
            payload = bytearray(templates[number % 8 // 4])
            payload[noise.randrange(len(payload))] = noise.randrange(256)
            desk.receive(bytes(payload))
        else:
            desk.receive(noise.randbytes(noise.randrange(64)))
        if number == RANDOM_PAYLOADS // 10:
            early = tracemalloc.get_traced_memory()[0]
    grown = tracemalloc.get_traced_memory()[0] - early
    tracemalloc.stop()
    assert desk.acknowledged == RANDOM_PAYLOADS
    assert sum(desk.refused(reason) for reason in ("malformed", "fields", "empty", "schema", "rate", "leads", "index",
                                                   "gain", "session", "lead-count")) == RANDOM_PAYLOADS  # fmt: skip
    assert (len(desk.registry), len(desk.reports)) == (0, BURST)
    assert grown < 1_000_000


def test_a_message_larger_than_allowed_is_refused_unread():
    desk = Desk()
    desk.receive(encode_msgpack(CHUNKS[0]) + bytes(10_000))
    assert desk.refused("too-large") == desk.acknowledged == 1


def test_a_retained_message_is_no_ecg_of_now():
    desk = Desk()
    desk.receive(encode_msgpack(CHUNKS[0]), retain=True)
    assert desk.refused("retained") == desk.acknowledged == 1
    assert len(desk.registry) == 0


@pytest.mark.parametrize("device", ["edge", "dead", "BED", "", "a b", "x" * 65])
def test_a_name_that_is_no_device_is_refused(device):
    desk = Desk()
    desk.receive(encode_msgpack(CHUNKS[0]), device)
    assert desk.refused("topic") == 1
    assert desk.reports[0]["topic"] == f"ecg/v1/{device}/wave"


def test_more_streams_than_allowed_are_refused_while_none_is_silent():
    desk = Desk(max_streams=3)
    for number in range(10):
        desk.receive(encode_msgpack(CHUNKS[0]), f"bed-{number}")
    assert len(desk.registry) == 3
    assert desk.refused("too-many-streams") == desk.value("refused_streams_total") == 7
    assert desk.evicted == []


def test_the_longest_silent_stream_makes_room():
    desk = Desk(max_streams=2)
    for at_s, device in ((0.0, "first"), (1.0, "second"), (2.0, "first")):
        desk.clock.now_s = at_s
        desk.receive(encode_msgpack(CHUNKS[int(at_s)]), device)
    desk.clock.now_s = 6.5
    desk.receive(encode_msgpack(CHUNKS[0]), "third")
    assert desk.evicted == ["second"]
    assert [stream.device for stream in desk.registry] == ["first", "third"]


def test_devices_of_long_chunks_are_not_silent_between_two_of_them_and_keep_their_places():
    desk = Desk(max_streams=2)
    desk.intake.max_payload_bytes = 50_000
    long = chunks_of(patient(60, seed=1), sizes=1000)
    for at_s in (0.0, 10.0, 20.0):
        for device in ("first", "second", "third"):
            desk.clock.now_s = at_s + 9.0 * (device == "third")
            desk.receive(encode_msgpack(long[int(at_s) // 10]), device)
    assert desk.evicted == []
    assert [stream.device for stream in desk.registry] == ["first", "second"]


def test_a_stream_that_is_with_the_model_is_not_pushed_out():
    desk = Desk(max_streams=1)
    desk.receive(encode_msgpack(CHUNKS[0]), "busy")
    desk.registry.find_or_add("busy", 0.0)[0].in_flight = True
    desk.clock.now_s = 100.0
    desk.receive(encode_msgpack(CHUNKS[0]), "other")
    assert [stream.device for stream in desk.registry] == ["busy"]


def test_a_batch_takes_one_hop_of_each_stream_oldest_first():
    desk = Desk()
    for at_s, device in enumerate(("b", "a", "c", "a")):
        desk.clock.now_s = float(at_s)
        desk.receive(encode_msgpack(CHUNKS[at_s // 3]), device)
    first = desk.registry.take_batch(2)
    assert [stream.device for stream, _ in first] == ["b", "a"]
    assert [stream.device for stream, _ in desk.registry.take_batch(9)] == ["c"]
    assert desk.registry.take_batch(9) == []  # the second hop of "a" waits until its first is done
    desk.registry.release(stream for stream, _ in first)
    assert [stream.device for stream, _ in desk.registry.take_batch(9)] == ["a"]


def test_a_stream_held_for_a_snapshot_has_its_turn_afterwards():
    desk = Desk()
    stream, _ = desk.registry.find_or_add("a", 0.0)
    stream.in_flight = True
    desk.receive(encode_msgpack(CHUNKS[0]), "a")
    assert desk.registry.take_batch(9) == []
    desk.registry.release([stream])
    assert [taken.device for taken, _ in desk.registry.take_batch(9)] == ["a"]


def test_a_stream_given_up_while_it_waited_is_passed_over():
    desk = Desk()
    desk.receive(encode_msgpack(CHUNKS[0]), "gone")
    desk.registry.remove("gone")
    desk.receive(encode_msgpack(CHUNKS[0]), "here")
    assert [stream.device for stream, _ in desk.registry.take_batch(9)] == ["here"]


def test_reports_are_limited_and_the_next_one_says_how_many_were_left_out():
    letters, error = DeadLetters(), PayloadError("malformed", "x" * 1000)
    made = [letters.report("t" * 1000, b"junk", error, now_s=0.0) for _ in range(int(BURST) + 30)]
    assert [report is None for report in made] == [False] * int(BURST) + [True] * 30
    later = letters.report("topic", b"junk", TopicError("no"), now_s=2 / REPORTS_PER_S)
    assert later is not None
    assert json.loads(later) == {
        "v": 1, "reason": "topic", "detail": "no", "topic": "topic", "bytes": 4, "suppressed": 30,
        "sha256": hashlib.sha256(b"junk").hexdigest(),
    }  # fmt: skip
    assert made[0] is not None
    assert len(made[0]) < 1000
