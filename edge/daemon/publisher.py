"""What goes out on one MQTT connection: QoS 1 until its PUBACK, QoS 0 as far as the socket takes it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from edge.daemon.socket_buffer import SocketBuffer
from edge.daemon.unacknowledged import FIRST_FAILURE, Unacknowledged, meaning_of
from edge.errors import MessageRefusedError, TransportError
from edge.stream.mqtt_packets import largest_publish_bytes, write_publish

UNSENT_LIMIT_BYTES = 4 << 20
"""How much QoS 0 may wait for a socket that does not take it."""
UNANSWERED_LIMIT = 20
"""How many QoS 1 messages may wait for their PUBACK at once; brokers that allow fewer say so."""
ACKNOWLEDGED_WITHIN_S = 30.0
"""A broker that takes longer for a PUBACK may never send it, however well it answers everything else."""


class Publisher:
    """Belongs to one link, and to its loop."""

    def __init__(
        self, sock: SocketBuffer, address: str, version_5: bool, write_soon: Callable[[], None],
        ended: asyncio.Future[TransportError], end: Callable[[TransportError], None],
    ) -> None:  # fmt: skip
        """`write_soon` has the socket flushed, `ended` is the link's, `end` ends the link."""
        self._sock, self._address, self._version_5 = sock, address, version_5
        self._write_soon, self._ended, self._end = write_soon, ended, end
        self._unacknowledged = Unacknowledged()
        self._unanswered = asyncio.Semaphore(UNANSWERED_LIMIT)
        self._packet_limit_bytes = 1 << 28
        self.note_answer = self._unacknowledged.note
        self.give_up = self._unacknowledged.give_up

    def limit(self, unanswered: int, packet_bytes: int | None) -> None:
        """Take note of what the broker allows; before the first message."""
        self._unanswered = asyncio.Semaphore(min(unanswered, UNANSWERED_LIMIT))
        if packet_bytes is not None:
            self._packet_limit_bytes = packet_bytes

    async def publish(self, topic: str, payload: bytes, retain: bool) -> None:
        """Publish with QoS 1 and return at its PUBACK; raises TransportError when refused or the link ends first."""
        if largest_publish_bytes(topic, payload) > self._packet_limit_bytes:
            raise MessageRefusedError(self._address, topic, "larger than the broker takes")
        async with self._unanswered:
            code = await self._answer_to(topic, payload, retain)
        if code >= FIRST_FAILURE:
            raise MessageRefusedError(self._address, topic, meaning_of(code))

    def send(self, topic: str, payload: bytes, retain: bool) -> bool:
        """Send a QoS 0 message; False when it can't be: too large, or too much waits already."""
        if self._ended.done() or self._sock.unsent_bytes > UNSENT_LIMIT_BYTES:
            return False
        packet = write_publish(topic, payload, retain, self._version_5)
        if len(packet) > self._packet_limit_bytes:
            return False
        self._sock.append(packet)
        self._write_soon()
        return True

    async def _answer_to(self, topic: str, payload: bytes, retain: bool) -> int:
        if self._ended.done():
            raise TransportError(str(self._ended.result()))
        number = self._unacknowledged.begin()
        self._sock.append(write_publish(topic, payload, retain, self._version_5, number))
        self._write_soon()
        patience = asyncio.get_running_loop().call_later(ACKNOWLEDGED_WITHIN_S, self._miss_answer, number, topic)
        try:
            return await self._unacknowledged.answer_to(number)
        finally:
            patience.cancel()

    def _miss_answer(self, number: int, topic: str) -> None:
        """End the link: MQTT lets a message be sent again in a later connection only (5.0, section 4.4)."""
        overdue = MessageRefusedError(self._address, topic, f"no PUBACK within {ACKNOWLEDGED_WITHIN_S:g} s")
        self._unacknowledged.fail(number, overdue)
        self._end(TransportError(str(overdue)))
