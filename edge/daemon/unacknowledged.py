"""Our QoS 1 messages on their way: their packet numbers, and who waits for the PUBACK of each."""

from __future__ import annotations

import asyncio
import itertools

from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.reasoncodes import ReasonCode

from edge.errors import TransportError

OUR_NUMBERS = range(1 << 15, 1 << 16)
"""Of messages sent without paho, which counts its own packets from 1 and sends a few in the life of a link."""
FIRST_FAILURE = 0x80
"""Reason codes from here on say that something was refused (MQTT 5.0, section 2.4)."""


class Unacknowledged:
    """What has been sent and not been answered. Belongs to one link, and to its loop."""

    def __init__(self) -> None:
        self._numbers = itertools.cycle(OUR_NUMBERS)
        self._waiting: dict[int, asyncio.Future[int]] = {}

    def begin(self) -> int:
        """Return the number of a message that is about to be sent."""
        number = next(self._numbers)
        self._waiting[number] = asyncio.get_running_loop().create_future()
        return number

    async def answer_to(self, number: int) -> int:
        """Return the reason code of a message's PUBACK; raises what `fail` or `give_up` says instead of it."""
        try:
            return await self._waiting[number]
        finally:
            del self._waiting[number]

    def note(self, number: int, code: int) -> None:
        """Take a PUBACK; one that nobody waits for is passed over."""
        waiting = self._waiting.get(number)
        if waiting is not None and not waiting.done():
            waiting.set_result(code)

    def fail(self, number: int, error: TransportError) -> None:
        """Tell who waits for a message's PUBACK why it is waited for no longer."""
        waiting = self._waiting.get(number)
        if waiting is not None and not waiting.done():
            waiting.set_exception(error)

    def give_up(self, reason: TransportError) -> None:
        """Tell all who wait why no answer will come."""
        for waiting in self._waiting.values():
            if not waiting.done():
                waiting.set_exception(TransportError(str(reason)))


def meaning_of(code: int) -> str:
    """Return what a reason code of a PUBACK means."""
    try:
        return str(ReasonCode(PacketTypes.PUBACK, identifier=code))
    except (AssertionError, KeyError):
        return f"reason code {code:#x}, which MQTT does not know"
