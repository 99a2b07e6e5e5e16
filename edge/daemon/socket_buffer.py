"""A socket that reads ahead and gathers what is written: packets are looked at whole, and sent many at a time."""

from __future__ import annotations

import contextlib
import socket
import ssl

READ_AHEAD_BYTES = 1 << 16
GATHERED_LIMIT_BYTES = 1 << 14
"""Small enough that a socket whose peer reads takes it all at once."""


class SocketBuffer:
    """Stands between us and a connected, non-blocking socket, and between it and paho, by the methods that paho calls.

    paho gets to read only what it is lent. What is sent waits for `flush`; once the socket has not taken all, paho can
    send nothing more until it has.
    """

    def __init__(self, sock: socket.socket) -> None:
        self._sock = sock
        self._received = b""
        self._taken = 0
        self._ended = False
        self._more = False
        self._lent = 0
        self._unsent = bytearray()
        self._blocked = False

    def fileno(self) -> int:
        """Return the descriptor, -1 once closed."""
        return self._sock.fileno()

    @property
    def more(self) -> bool:
        """Whether the socket may hold more than the last `fill` took, which no selector would tell."""
        return self._more

    @property
    def ended(self) -> bool:
        """Whether the peer sends no more, and all it sent has been taken."""
        return self._ended and self._taken >= len(self._received)

    @property
    def lent_bytes(self) -> int:
        """How much paho may still read."""
        return self._lent

    @property
    def unsent_bytes(self) -> int:
        """How much waits for the socket."""
        return len(self._unsent)

    def fill(self) -> bool:
        """Read what the socket holds; return False when there is nothing new. Raises OSError when it is broken."""
        try:
            data = self._sock.recv(READ_AHEAD_BYTES)
        except (BlockingIOError, ssl.SSLWantReadError, ssl.SSLWantWriteError):
            self._more = False
            return False
        if isinstance(self._sock, ssl.SSLSocket):
            self._more = self._sock.pending() > 0
        else:
            self._more = len(data) == READ_AHEAD_BYTES
        news = bool(data) or not self._ended
        self._ended = not data
        self._received, self._taken = self._received[self._taken :] + data, 0
        return news

    def unread(self) -> tuple[bytes, int]:
        """Return what has been read, and from where on it has not been taken."""
        return self._received, self._taken

    def skip(self, size: int) -> None:
        """Take so many bytes."""
        self._taken += size

    def lend(self, size: int) -> None:
        """Let paho read so many bytes, those not read yet included."""
        self._lent += size

    def recv(self, size: int, /) -> bytes:
        """Return up to so many of the bytes lent, none at the end; raises BlockingIOError when none are there."""
        if self.ended:
            return b""
        begin = self._taken
        end = min(len(self._received), begin + min(size, self._lent))
        if begin == end:
            raise BlockingIOError
        self._taken = end
        self._lent -= end - begin
        return self._received[begin:end]

    def send(self, data: bytes | bytearray | memoryview, /) -> int:
        """Take all of it; raises BlockingIOError when the socket is not ready for what was taken before."""
        if self._blocked or (len(self._unsent) >= GATHERED_LIMIT_BYTES and not self.flush()):
            raise BlockingIOError
        self._unsent += data
        return len(data)

    def append(self, packet: bytes) -> None:
        """Take a packet however much waits already: whoever calls keeps that bounded."""
        self._unsent += packet

    def flush(self) -> bool:
        """Send what was gathered; return whether all is out. Raises OSError when the connection is gone."""
        try:
            while self._unsent:
                del self._unsent[: self._sock.send(self._unsent)]
        except (BlockingIOError, ssl.SSLWantReadError, ssl.SSLWantWriteError):
            self._blocked = True
            return False
        self._blocked = False
        return True

    def pending(self) -> int:
        """Return 0: what has been read ahead is not for paho to ask about."""
        return 0

    def setblocking(self, flag: bool, /) -> None:
        """Do nothing: the socket is non-blocking and stays so."""

    def close(self) -> None:
        """Send what was gathered, as far as the socket takes it, and close."""
        with contextlib.suppress(OSError):
            self.flush()
        self._sock.close()
