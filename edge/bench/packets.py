"""The few MQTT 3.1.1 packets a load generator needs, as bytes: a client library would be most of the load itself.

Layouts: OASIS MQTT 3.1.1, sections 2.2 (fixed header), 3.1 (CONNECT), 3.3 (PUBLISH), 3.8 (SUBSCRIBE).
"""

from __future__ import annotations

import struct
from collections.abc import Iterator

from edge.stream.mqtt_packets import encode_text, frame_at, write_packet

MAX_PACKET_NUMBER = 65_535


def connect(client_id: str, keepalive_s: int = 600) -> bytes:
    """Return a CONNECT with a clean session and no will."""
    settings = bytes([4, 0b10]) + struct.pack(">H", keepalive_s)
    return write_packet(0x10, encode_text("MQTT"), settings, encode_text(client_id))


def subscribe(topic_filter: str, qos: int) -> bytes:
    """Return a SUBSCRIBE to one filter, as packet number 1."""
    return write_packet(0x82, struct.pack(">H", 1), encode_text(topic_filter), bytes([qos]))


def publish(topic: str, payload: bytes) -> tuple[bytearray, int]:
    """Return a PUBLISH of QoS 1 and where its two-byte packet number stands, to be filled in."""
    packet = bytearray(write_packet(0x32, encode_text(topic), b"\0\0", payload))
    return packet, len(packet) - len(payload) - 2


class Frames:
    """Cuts a byte stream into packets."""

    def __init__(self) -> None:
        self._rest = b""

    def feed(self, data: bytes) -> Iterator[tuple[int, memoryview]]:
        """Yield (type, body) of every packet that is whole now."""
        self._rest = data = self._rest + data
        view, at = memoryview(data), 0
        while (frame := frame_at(data, at)) is not None and frame[1] <= len(data):
            begin, end = frame
            yield data[at] >> 4, view[begin:end]
            at = end
        self._rest = data[at:]


def published(body: memoryview) -> tuple[bytes, memoryview]:
    """Return topic and payload of a PUBLISH of QoS 0."""
    (length,) = struct.unpack_from(">H", body)
    return bytes(body[2 : 2 + length]), body[2 + length :]
