"""The few MQTT packets that come and go thousands of times a second, as bytes. All others are a client library's.

Layouts: OASIS MQTT 5.0 and 3.1.1, sections 2.1 (fixed header), 2.2.2 (properties), 3.3 (PUBLISH), 3.4 (PUBACK).
"""

from __future__ import annotations

import struct
from functools import lru_cache
from typing import NamedTuple

CONNACK, PUBLISH, PUBACK = 2, 3, 4
MAX_LENGTH_BYTES = 4
KNOWN_TOPICS = 1 << 14
KNOWN_TOPIC_BYTES = 256
"""Topics whose encoding is remembered, and up to which size: the same ones come and go all the time."""

RETAIN, DUPLICATE = 0x01, 0x08
QOS_SHIFT, QOS_MASK = 1, 0x03

_UINT16 = struct.Struct(">H")
_PUBACK = struct.Struct(">BBH")


class Published(NamedTuple):
    """A PUBLISH. number: of the packet, which its PUBACK has to name; 0 at QoS 0."""

    topic: str
    payload: bytes
    qos: int
    retain: bool
    duplicate: bool
    number: int


def frame_at(data: bytes, at: int) -> tuple[int, int] | None:
    """Return where the body of the packet that begins at `at` begins and ends; None while that cannot be told yet.

    Raises ValueError when it has no length that MQTT knows.
    """
    length = shift = 0
    for begin in range(at + 1, min(len(data), at + 1 + MAX_LENGTH_BYTES)):
        digit = data[begin]
        length |= (digit & 0x7F) << shift
        if digit < 0x80:
            return begin + 1, begin + 1 + length
        shift += 7
    if len(data) > at + MAX_LENGTH_BYTES:
        raise ValueError("a packet length of more than four bytes")
    return None


def qos_of(first: int) -> int:
    """Return the QoS in the first byte of a PUBLISH."""
    return first >> QOS_SHIFT & QOS_MASK


def read_publish(data: bytes, at: int, frame: tuple[int, int], version_5: bool) -> Published:
    """Return the whole PUBLISH that begins at `at`; a topic that is no text has U+FFFD in it. Raises ValueError."""
    first, (begin, end) = data[at], frame
    qos, number = qos_of(first), 0
    if end - begin < _UINT16.size:
        raise ValueError("a PUBLISH without a topic")
    topic_end = begin + _UINT16.size + _UINT16.unpack_from(data, begin)[0]
    payload_begin = topic_end
    if qos:
        payload_begin += _UINT16.size
        if payload_begin <= end:
            (number,) = _UINT16.unpack_from(data, topic_end)
    if version_5 and payload_begin < end:
        # the properties begin with their length, coded like a packet's
        if data[payload_begin] == 0:
            payload_begin += 1
        else:
            properties = frame_at(data, payload_begin - 1)
            payload_begin = end + 1 if properties is None else properties[1]
    elif version_5:
        payload_begin = end + 1
    if payload_begin > end:
        raise ValueError("a PUBLISH shorter than its parts")
    encoded = data[begin + _UINT16.size : topic_end]
    topic = _known_topic(encoded) if len(encoded) <= KNOWN_TOPIC_BYTES else _topic(encoded)
    return Published(topic, data[payload_begin:end], qos, bool(first & RETAIN), bool(first & DUPLICATE), number)


def read_puback(data: bytes, frame: tuple[int, int]) -> tuple[int, int]:
    """Return the number of the packet that a PUBACK answers, and the reason code: 0 for success. Raises ValueError."""
    begin, end = frame
    if end - begin < _UINT16.size:
        raise ValueError("a PUBACK without a packet number")
    (number,) = _UINT16.unpack_from(data, begin)
    return number, data[begin + _UINT16.size] if end - begin > _UINT16.size else 0


def write_publish(topic: str, payload: bytes, retain: bool, version_5: bool, number: int = 0) -> bytes:
    """Return a PUBLISH without properties, of QoS 1 when it has a number, else 0.

    Raises ValueError when it is larger than MQTT allows.
    """
    first = PUBLISH << 4 | (1 << QOS_SHIFT if number else 0) | (RETAIN if retain else 0)
    return write_packet(
        first, encode_text(topic), _UINT16.pack(number) if number else b"", b"\0" if version_5 else b"", payload
    )


def largest_publish_bytes(topic: str, payload: bytes) -> int:
    """Return how large a PUBLISH is at most, headers and short properties included."""
    return len(payload) + 4 * len(topic) + 64


def write_puback(number: int) -> bytes:
    """Return the PUBACK that says that a message is dealt with."""
    return _PUBACK.pack(PUBACK << 4, _UINT16.size, number)


def write_packet(first: int, *parts: bytes) -> bytes:
    """Return a packet of its first byte and the parts of its body. Raises ValueError when they are too large."""
    length, digits = sum(map(len, parts)), bytearray((first,))
    if length >= 1 << 7 * MAX_LENGTH_BYTES:
        raise ValueError(f"a packet of {length} bytes is larger than MQTT allows")
    while length >= 0x80:
        digits.append(length & 0x7F | 0x80)
        length >>= 7
    digits.append(length)
    return b"".join((digits, *parts))


@lru_cache(maxsize=KNOWN_TOPICS)
def encode_text(text: str) -> bytes:
    """Return a text as MQTT writes it: its length, then UTF-8. Raises ValueError when it has more than 65,535 bytes."""
    encoded = text.encode()
    if len(encoded) > 0xFFFF:
        raise ValueError(f"a text of {len(encoded)} bytes is longer than MQTT allows")
    return _UINT16.pack(len(encoded)) + encoded


def _topic(encoded: bytes) -> str:
    return encoded.decode(errors="replace")


_known_topic = lru_cache(maxsize=KNOWN_TOPICS)(_topic)
