"""MQTT packets as bytes: what is written can be read, another implementation's properties too; junk is refused."""

from __future__ import annotations

import contextlib
import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties

from edge.stream.mqtt_packets import (
    MAX_LENGTH_BYTES,
    Published,
    encode_text,
    frame_at,
    largest_publish_bytes,
    read_puback,
    read_publish,
    write_packet,
    write_puback,
    write_publish,
)

topics = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), min_size=1, max_size=60)
payloads = st.binary(max_size=400)


def read(packet, version_5):
    """The one packet that this is, read as a message."""
    frame = frame_at(packet, 0)
    assert frame is not None
    assert frame[1] == len(packet)
    return read_publish(packet, 0, frame, version_5)


@given(topics, payloads, st.booleans(), st.booleans(), st.integers(0, 65535))
def test_a_message_that_was_written_is_read_as_it_was(topic, payload, retain, version_5, number):
    packet = write_publish(topic, payload, retain, version_5, number)
    assert read(packet, version_5) == Published(topic, payload, int(number > 0), retain, False, number)
    assert len(packet) <= largest_publish_bytes(topic, payload)


@given(topics, payloads, st.integers(1, 65535), st.booleans(), st.booleans())
def test_a_message_with_a_number_is_read_in_both_versions(topic, payload, number, again, version_5):
    number_bytes = struct.pack(">H", number) + (b"\0" if version_5 else b"")
    packet = write_packet(0x3A if again else 0x32, encode_text(topic), number_bytes, payload)
    assert read(packet, version_5) == Published(topic, payload, 1, False, again, number)


@given(payloads, st.text(max_size=200), st.integers(0, 2**32 - 1))
def test_properties_that_another_implementation_writes_are_passed_over(payload, kind, expiry_s):
    properties = Properties(PacketTypes.PUBLISH)
    properties.ContentType = kind.replace("\0", "")
    properties.MessageExpiryInterval = expiry_s
    packet = write_packet(0x30, encode_text("a/b"), properties.pack(), payload)
    assert read(packet, True).payload == payload


@pytest.mark.parametrize("length", [0, 127, 128, 16_383, 16_384, 2_097_151, 2_097_152])
def test_the_length_is_found_at_its_edges_and_not_before_it_is_whole(length):
    packet = write_packet(0x30, bytes(length))
    digits = len(packet) - length - 1
    assert frame_at(packet, 0) == (1 + digits, len(packet))
    assert all(frame_at(packet[:size], 0) is None for size in range(1 + digits))
    assert frame_at(b"xyz" + packet, 3) == (4 + digits, 3 + len(packet))


def test_an_acknowledgement_names_its_packet():
    assert write_puback(0x1234) == b"\x40\x02\x12\x34"
    assert read_puback(b"\x40\x02\x12\x34", (2, 4)) == (0x1234, 0)
    assert read_puback(b"\x40\x04\x12\x34\x97\x00", (2, 6)) == (0x1234, 0x97)
    with pytest.raises(ValueError, match="without a packet number"):
        read_puback(b"\x40\x01\x12", (2, 3))


def test_a_length_of_five_bytes_is_no_packet():
    assert frame_at(b"\x30" + b"\xff" * (MAX_LENGTH_BYTES - 1), 0) is None
    with pytest.raises(ValueError, match="four bytes"):
        frame_at(b"\x30" + b"\xff" * MAX_LENGTH_BYTES, 0)


def test_what_is_too_large_is_not_written():
    with pytest.raises(ValueError, match="65536 bytes"):
        encode_text("x" * 65_536)


def test_a_topic_that_is_no_text_is_marked():
    assert read(write_packet(0x30, b"\0\x03a\xff/", b"x"), False).topic == "a\N{REPLACEMENT CHARACTER}/"


@given(st.binary(max_size=40), st.integers(0, 255), st.booleans())
def test_junk_in_a_message_is_refused_and_nothing_outside_of_it_is_read(body, flags, version_5):
    packet = write_packet(0x30 | (flags & 0x0B), body)
    frame = frame_at(packet, 0)
    with contextlib.suppress(ValueError):
        alone = read_publish(packet, 0, frame, version_5)
        assert alone == read_publish(packet + b"\x30\x7fmore", 0, frame, version_5)
        assert len(alone.payload) + len(alone.topic.encode("utf-8", "replace")) <= 3 * len(body)
