"""Reads the packets of a connection: small messages and acknowledgements itself, thousands a second, the rest by paho.

A message asks nothing of paho: no state of the session changes before its acknowledgement, and with that nobody but
the broker's. What paho does beside that for each one takes longer than filtering its samples. Acknowledgements are all
of messages that `PahoLink` sent without paho.
"""

from __future__ import annotations

from collections.abc import Callable

from edge.daemon.socket_buffer import READ_AHEAD_BYTES, SocketBuffer
from edge.stream.mqtt_packets import PUBACK, PUBLISH, Published, frame_at, qos_of, read_puback, read_publish

WHOLE_LIMIT_BYTES = READ_AHEAD_BYTES
"""Up to this size a message is waited for until it is whole; paho collects larger ones piece by piece."""


class PacketReader:
    """Takes packets from a buffered socket. Raises ValueError for one that is none, OSError when the socket breaks."""

    def __init__(
        self, sock: SocketBuffer, version_5: bool, read_by_paho: Callable[[], bool],
        on_published: Callable[[Published], None], on_acknowledged: Callable[[int, int], None],
    ) -> None:  # fmt: skip
        """read_by_paho lets paho read, and returns whether the connection is still there to be read from.

        on_acknowledged is given the number of a packet and the reason code of its PUBACK.
        """
        self._sock, self._version_5 = sock, version_5
        self._read_by_paho, self._on_published, self._on_acknowledged = read_by_paho, on_published, on_acknowledged
        self.packets = 0
        """Taken so far."""

    def read(self, limit: int) -> bool:
        """Read up to so many packets; return whether more may be there that no selector will tell of."""
        fresh = True
        for _ in range(limit):
            while not (taken := self._take()):
                if taken is None or not (fresh or self._sock.more) or not self._sock.fill():
                    return False
                fresh = False
            self.packets += 1
        return True

    def _take(self) -> bool | None:
        """Take a packet, or a part of a large one; False when more must come first, None when nothing more will."""
        sock = self._sock
        if not sock.lent_bytes and not sock.ended:
            data, at = sock.unread()
            try:
                frame = frame_at(data, at)
            except ValueError:
                frame = (at, len(data))  # paho says what it thinks of it
            if frame is None:
                return False
            end = frame[1]
            if end - at <= WHOLE_LIMIT_BYTES and _is_ours(data[at]):
                if end > len(data):
                    return False
                sock.skip(end - at)
                if data[at] >> 4 == PUBACK:
                    self._on_acknowledged(*read_puback(data, frame))
                else:
                    self._on_published(read_publish(data, at, frame, self._version_5))
                return True
            sock.lend(end - at)
        lent = sock.lent_bytes
        if not self._read_by_paho() or sock.ended:
            return None
        return sock.lent_bytes < lent


def _is_ours(first: int) -> bool:
    """Whether a packet is read here, by its first byte."""
    kind = first >> 4
    return kind == PUBACK or (kind == PUBLISH and qos_of(first) < 2)
