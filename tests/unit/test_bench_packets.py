"""The load generator's MQTT: what it writes is what paho reads, and it finds packets in any pieces."""

from __future__ import annotations

import io

from hypothesis import given
from hypothesis import strategies as st

from edge.bench import packets
from edge.bench.load import CHUNK_SAMPLES, Pattern
from edge.stream import mqtt_packets, wire


@given(st.lists(st.binary(max_size=300), max_size=8), st.data())
def test_packets_are_found_in_any_pieces(payloads, data):
    whole = b"".join(bytes(packets.publish("a/b", payload)[0]) for payload in payloads)
    stream, frames, found = io.BytesIO(whole), packets.Frames(), []
    while piece := stream.read(data.draw(st.integers(1, 400))):
        found += [(kind, bytes(body)) for kind, body in frames.feed(piece)]
    assert found == [(mqtt_packets.PUBLISH, b"\x00\x03a/b\x00\x00" + payload) for payload in payloads]


def test_the_packet_number_stands_where_publish_says():
    packet, place = packets.publish("ecg/v1/bed/wave", b"x" * 200)
    assert packet[0] == 0x32  # PUBLISH, QoS 1
    assert packet[place : place + 2] == b"\0\0"
    assert packet[place + 2 :] == b"x" * 200


def test_a_published_score_is_taken_apart():
    body = b"\x00\x03a/bpayload"
    assert packets.published(memoryview(body)) == (b"a/b", b"payload")


def test_a_pattern_fills_in_number_index_and_time():
    pattern = Pattern()
    for number in (0, 1, 500):
        chunk = wire.decode(bytes(pattern.payload(number, 3, 1_700_000_000_000_000_000 + number)))
        assert (chunk.number, chunk.index) == (number, number * CHUNK_SAMPLES)
        assert chunk.time_ns == 1_700_000_000_000_000_000 + number
        assert chunk.samples.shape == (CHUNK_SAMPLES, 12)
