"""A socket that reads ahead and gathers what is written: paho asks for a byte at a time and sends packet by packet."""

from __future__ import annotations

import contextlib
import socket
import ssl

READ_AHEAD_BYTES = 1 << 16
GATHERED_LIMIT_BYTES = 1 << 14
"""Small enough that a socket whose peer reads takes it all at once."""


class SocketBuffer:
    """Stands between paho and its connected, non-blocking socket; the few methods are those that paho calls.

    What is sent waits for `flush`. Once the socket has not taken all, nothing more is accepted until it has.
    """

    def __init__(self, sock: socket.socket) -> None:
        self._sock = sock
        self._received = b""
        self._taken = 0
        self._unsent = bytearray()
        self._blocked = False

    def fileno(self) -> int:
        """Return the descriptor, -1 once closed."""
        return self._sock.fileno()

    def pending(self) -> int:
        """Return how many bytes have been read from the network and not been asked for: no selector sees them."""
        decrypted = self._sock.pending() if isinstance(self._sock, ssl.SSLSocket) and self.fileno() >= 0 else 0
        return len(self._received) - self._taken + decrypted

    def recv(self, size: int, /) -> bytes:
        """Return up to so many bytes, none at the end; raises BlockingIOError or TLS's own when none are there."""
        if self._taken >= len(self._received):
            self._received, self._taken = self._sock.recv(READ_AHEAD_BYTES), 0
        begin = self._taken
        self._taken = min(len(self._received), begin + size)
        return self._received[begin : self._taken]

    def send(self, data: bytes | bytearray | memoryview, /) -> int:
        """Take all of it; raises BlockingIOError when the socket is not ready for what was taken before."""
        if self._blocked or (len(self._unsent) >= GATHERED_LIMIT_BYTES and not self.flush()):
            raise BlockingIOError
        self._unsent += data
        return len(data)

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

    def setblocking(self, flag: bool, /) -> None:
        """Do nothing: the socket is non-blocking and stays so."""

    def close(self) -> None:
        """Send what was gathered, as far as the socket takes it, and close."""
        with contextlib.suppress(OSError):
            self.flush()
        self._sock.close()
