"""How much of what was published is still with paho, because the socket does not take it."""

from __future__ import annotations

from collections import deque

UNSENT_LIMIT_BYTES = 4 << 20
"""How much QoS 0 may wait for a socket that does not take it."""


def packet_bytes(topic: str, payload: bytes) -> int:
    """Return how large a message is at most, headers and properties included."""
    return len(payload) + 4 * len(topic) + 64


class Unsent:
    """The QoS 0 messages that paho holds for a socket that does not take them, by their sizes."""

    def __init__(self) -> None:
        self._sizes_bytes: deque[int] = deque()
        self._total_bytes = 0

    @property
    def full(self) -> bool:
        """Whether more than UNSENT_LIMIT_BYTES wait."""
        return self._total_bytes > UNSENT_LIMIT_BYTES

    def add(self, size_bytes: int) -> None:
        """Note a message that was handed to paho."""
        self._sizes_bytes.append(size_bytes)
        self._total_bytes += size_bytes

    def remove(self) -> None:
        """Note that paho has written the oldest of them, if there is one."""
        if self._sizes_bytes:
            self._total_bytes -= self._sizes_bytes.popleft()
