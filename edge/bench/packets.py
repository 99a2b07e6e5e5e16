"""The few MQTT 3.1.1 packets a load generator needs, as bytes: a client library would be most of the load itself.

Layouts: OASIS MQTT 3.1.1, sections 2.2 (fixed header), 3.1 (CONNECT), 3.3 (PUBLISH), 3.8 (SUBSCRIBE).
"""

from __future__ import annotations

import struct
from collections.abc import Iterator

CONNACK, PUBLISH, PUBACK, SUBACK = 2, 3, 4, 9
MAX_PACKET_NUMBER = 65_535


def connect(client_id: str, keepalive_s: int = 600) -> bytes:
    """Return a CONNECT with a clean session and no will."""
    body = _text("MQTT") + bytes([4, 0b10]) + struct.pack(">H", keepalive_s) + _text(client_id)
    return _packet(0x10, body)


def subscribe(topic_filter: str, qos: int) -> bytes:
    """Return a SUBSCRIBE to one filter, as packet number 1."""
    return _packet(0x82, struct.pack(">H", 1) + _text(topic_filter) + bytes([qos]))


def publish(topic: str, payload: bytes) -> tuple[bytearray, int]:
    """Return a PUBLISH of QoS 1 and where its two-byte packet number stands, to be filled in."""
    head = _text(topic)
    packet = bytearray(_packet(0x32, head + b"\0\0" + payload))
    return packet, len(packet) - len(payload) - 2


class Frames:
    """Cuts a byte stream into packets."""

    def __init__(self) -> None:
        self._rest = b""

    def feed(self, data: bytes) -> Iterator[tuple[int, memoryview]]:
        """Yield (type, body) of every packet that is whole now."""
        self._rest = data = self._rest + data
        view, at = memoryview(data), 0
        while True:
            length, begin = _length(data, at + 1)
            if begin < 0 or begin + length > len(data):
                break
            yield data[at] >> 4, view[begin : begin + length]
            at = begin + length
        self._rest = data[at:]


def published(body: memoryview) -> tuple[bytes, memoryview]:
    """Return topic and payload of a PUBLISH of QoS 0."""
    (length,) = struct.unpack_from(">H", body)
    return bytes(body[2 : 2 + length]), body[2 + length :]


def _packet(first: int, body: bytes) -> bytes:
    length, digits = len(body), bytearray()
    while True:
        length, digit = divmod(length, 128)
        digits.append(digit | (0x80 if length else 0))
        if not length:
            return bytes([first]) + bytes(digits) + body


def _length(data: bytes, at: int) -> tuple[int, int]:
    """Return the remaining length that begins at `at` and where the body begins; -1 when it is not whole yet."""
    length = shift = 0
    for k in range(4):
        if at + k >= len(data):
            return 0, -1
        length |= (data[at + k] & 0x7F) << shift
        shift += 7
        if not data[at + k] & 0x80:
            return length, at + k + 1
    raise ValueError("a packet length of more than four bytes")


def _text(value: str) -> bytes:
    encoded = value.encode()
    return struct.pack(">H", len(encoded)) + encoded
