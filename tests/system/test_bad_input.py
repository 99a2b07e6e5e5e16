"""Whatever is published as a wave, the daemon counts it, reports it, acknowledges it, and nobody else notices."""

from __future__ import annotations

import hashlib
import json
import random
from typing import Any

import msgspec
import pytest

from edge.signal.leads import STANDARD_LEADS
from edge.stream.wire import encode_json, encode_msgpack
from tests.daemon import until
from tests.ecg import chunks_of, patient
from tests.reference import assert_same_scores
from tests.system.conftest import OpenSite, Site

GOOD = encode_msgpack(chunks_of(patient(1))[0])
MAX_PAYLOAD_BYTES = 1024 * 1024
SECONDS = 12


def changed(**fields: Any) -> bytes:
    """Return a good MessagePack wave with other fields."""
    return msgspec.msgpack.encode(msgspec.msgpack.decode(GOOD) | fields)


BAD_PAYLOADS = {
    "nothing": (b"", "empty"),
    "truncated": (GOOD[:-20], "malformed"),
    "truncated-json": (encode_json(chunks_of(patient(1))[0])[:-9], "malformed"),
    "no-object": (msgspec.msgpack.encode([1, 2, 3]), "fields"),
    "wrong-type": (changed(s=5), "fields"),
    "text-for-samples": (changed(x="text"), "fields"),
    "huge": (GOOD + bytes(MAX_PAYLOAD_BYTES), "too-large"),
    "gain-nan": (changed(gain=float("nan")), "gain"),
    "gain-zero": (changed(gain=0.0), "gain"),
    "gain-infinite": (changed(gain=float("inf")), "gain"),
    "schema": (changed(v=2), "schema"),
    "lead-count": (changed(leads=list(STANDARD_LEADS[:7])), "lead-count"),
    "no-leads": (changed(leads=[]), "leads"),
    "index-negative": (changed(i=-1), "index"),
    "index-too-large": (changed(i=2**60), "index"),
    "index-fraction": (changed(i=0.5), "index"),
    "index-at-the-end": (changed(i=2**53 - 2), "index"),
    "rate-unknown": (changed(fs=101), "rate"),
    "session-with-a-slash": (changed(s="a/b"), "session"),
    "no-samples": (changed(x=b""), "empty"),
    "too-long": (changed(fs=100, x=bytes(24 * 6001)), "too-long"),
}

BAD_DEVICES = ["edge", "dead", "BED", "", "bed 1", "bett-ä", "x" * 65, "$SYS", "a\u202eb"]


@pytest.mark.parametrize("kind", BAD_PAYLOADS)
def test_a_bad_payload_is_counted_reported_and_disturbs_nobody(site: Site, kind: str) -> None:
    payload, reason = BAD_PAYLOADS[kind]
    samples = patient(SECONDS, seed=1)
    chunks = chunks_of(samples)
    topic, neighbour = f"ecg/v1/bad-{kind}/wave", f"neighbour-of-{kind}"
    before = site.daemon.metric("payload_errors_total", reason=reason)
    site.devices.send(neighbour, chunks[:6], wait=False)
    site.devices.send_raw(topic, [payload])
    site.devices.send(neighbour, chunks[6:])
    assert_same_scores(site.ward.await_scores(neighbour, SECONDS), samples)
    report = await_report(site, topic)
    assert (report["v"], report["reason"], report["bytes"]) == (1, reason, len(payload))
    assert report["sha256"] == hashlib.sha256(payload).hexdigest()
    assert site.daemon.metric("payload_errors_total", reason=reason) == before + 1
    assert site.daemon.health()[0] == 200


@pytest.mark.parametrize("device", BAD_DEVICES)
def test_a_topic_that_names_no_device_is_counted_and_reported(site: Site, device: str) -> None:
    topic = f"ecg/v1/{device}/wave"
    before = site.daemon.metric("payload_errors_total", reason="topic")
    site.devices.send_raw(topic, [GOOD])
    assert await_report(site, topic)["reason"] == "topic"
    assert site.daemon.metric("payload_errors_total", reason="topic") == before + 1


def test_a_bad_payload_within_a_stream_costs_that_stream_nothing_else(site: Site) -> None:
    samples = patient(SECONDS, seed=2)
    chunks = chunks_of(samples)
    site.devices.send("mixed", chunks[:6])
    site.devices.send_raw("ecg/v1/mixed/wave", [payload for payload, _ in BAD_PAYLOADS.values()])
    site.devices.send("mixed", chunks[6:])
    assert_same_scores(site.ward.await_scores("mixed", SECONDS), samples)


def test_one_index_far_ahead_costs_a_stream_a_warming_and_no_more(open_site: OpenSite) -> None:
    site = open_site(streams={"reorder_wait_s": 0.2})
    chunks = chunks_of(patient(26, seed=3))
    site.devices.send("bed", chunks[:11])
    site.ward.await_scores("bed", 11)
    site.devices.send_raw("ecg/v1/bed/wave", [changed(i=2**50, t=None)])
    until(lambda: site.daemon.metric("gaps_total", outcome="lost") == 1, "the jump")
    site.devices.send("bed", chunks[11:])
    until(lambda: site.ward.scores("bed")[-1]["i"] == 2599, "the last score")
    assert [score["state"] for score in site.ward.scores("bed")[-6:]] == ["ready"] * 6


def test_thousands_of_random_payloads_are_refused_and_none_comes_again(open_site: OpenSite) -> None:
    site = open_site()
    noise = random.Random(0)
    samples = patient(SECONDS, seed=4)
    chunks = chunks_of(samples)
    site.devices.send("bed", chunks[:6])
    junk = [noise.randbytes(noise.randrange(1, 200)) for _ in range(3000)]
    site.devices.send_raw("ecg/v1/junk/wave", junk)
    site.devices.send("bed", chunks[6:])
    assert_same_scores(site.ward.await_scores("bed", SECONDS), samples)
    refused = sum(
        site.daemon.metric("payload_errors_total", reason=reason)
        for reason in ("malformed", "fields", "schema", "leads")
    )
    assert refused == len(junk)
    until(lambda: site.daemon.metric("streams") == 1, "the next poll, which counts")
    assert 0 < len(site.ward.dead()) < len(junk)  # reports are limited, and say how many were left out
    assert site.daemon.stop() == 0
    site.daemon.start()
    site.devices.send("marker", chunks)
    site.ward.await_scores("marker", SECONDS)
    assert site.daemon.metric("payload_errors_total", reason="malformed") == 0  # all had been acknowledged


def test_a_wave_that_the_broker_retained_is_not_taken_for_ecg_of_now(open_site: OpenSite) -> None:
    site = open_site()
    site.devices.send_raw("ecg/v1/bed/wave", [GOOD], retain=True)
    until(lambda: site.daemon.metric("chunks_total") == 1, "the chunk, live")
    assert site.daemon.stop() == 0
    site.daemon.start()
    assert await_report(site, "ecg/v1/bed/wave")["reason"] == "retained"
    assert site.daemon.metric("chunks_total") == 0


def test_ten_thousand_device_names_do_not_fill_the_memory(open_site: OpenSite) -> None:
    site = open_site(streams={"max_streams": 100, "silent_after_s": 60.0})
    samples = patient(SECONDS, seed=5)
    chunks = chunks_of(samples)
    site.devices.send("bed", chunks[:6])
    site.ward.await_scores("bed", 6)
    before_mib = site.daemon.memory_mib()
    short = encode_msgpack(chunks_of(samples[:10])[0])
    for first in range(0, 10_000, 1000):
        for number in range(first, first + 1000):
            site.devices.send_raw(f"ecg/v1/name-{number}/wave", [short], wait=False)
        site.devices.send_raw("ecg/v1/name-0/wave", [short])
    site.devices.send("bed", chunks[6:])
    assert_same_scores(site.ward.await_scores("bed", SECONDS), samples)
    until(lambda: site.daemon.metric("streams") == 100, "the next poll, which counts")
    assert site.daemon.metric("refused_streams_total") == 10_000 - 99
    assert site.daemon.memory_mib() - before_mib < 60


def test_names_that_fall_silent_make_room_for_new_ones(open_site: OpenSite) -> None:
    site = open_site(streams={"max_streams": 50, "silent_after_s": 0.2, "evict_after_s": 3600.0})
    short = encode_msgpack(chunks_of(patient(1)[:10])[0])
    for group in range(3):
        names = [f"name-{group}-{number}" for number in range(50)]
        until(lambda names=names: send_until_followed(site, names, short), f"room for group {group}")
    until(lambda: site.daemon.metric("streams") == 50, "the next poll, which counts")


def test_leads_that_no_model_knows_make_a_stream_unfit_and_nothing_else(site: Site) -> None:
    odd = changed(leads=[*STANDARD_LEADS[:11], "X"])
    site.devices.send_raw("ecg/v1/odd/wave", [odd])
    assert site.ward.await_alert("odd", "unfit_leads", "raised").kind == "technical"
    assert site.ward.scores("odd") == []


def send_until_followed(site: Site, names: list[str], payload: bytes) -> bool:
    """Publish for all names; tell whether none was refused this time."""
    refused, taken = site.daemon.metric("refused_streams_total"), site.daemon.metric("chunks_total")
    for name in names:
        site.devices.send_raw(f"ecg/v1/{name}/wave", [payload], wait=False)
    until(
        lambda: (
            site.daemon.metric("refused_streams_total") + site.daemon.metric("chunks_total")
            == refused + taken + len(names)
        ),
        "an answer for every name",
    )
    return site.daemon.metric("refused_streams_total") == refused


def await_report(site: Site, topic: str) -> dict[str, Any]:
    """Wait for the dead letter of a topic and return it."""
    found: list[dict[str, Any]] = []

    def arrived() -> bool:
        found[:] = [report for report in site.ward.dead() if report["topic"] == topic]
        return bool(found)

    until(arrived, f"a report on {json.dumps(topic)}")
    return found[-1]
