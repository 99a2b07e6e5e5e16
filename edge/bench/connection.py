"""One MQTT connection of a benchmark: a socket, what it still has to send, and its packet numbers."""

from __future__ import annotations

import contextlib
import select
import socket
import time
from collections.abc import Iterator
from dataclasses import dataclass, field

from edge.bench import packets
from edge.stream import mqtt_packets

TIMEOUT_S = 10.0
RECEIVE_BYTES = 1 << 18


@dataclass
class Connection:
    """A connected client; raises ConnectionError when the broker has hung up."""

    sock: socket.socket
    unsent: bytearray = field(default_factory=bytearray)
    frames: packets.Frames = field(default_factory=packets.Frames)
    number: int = 0
    acknowledged: int = 0

    def next_number(self) -> int:
        """Return the next packet number, 1 to 65535."""
        self.number = self.number % packets.MAX_PACKET_NUMBER + 1
        return self.number

    def flush(self) -> None:
        """Send what the socket takes."""
        if self.unsent:
            with contextlib.suppress(BlockingIOError):
                del self.unsent[: self.sock.send(self.unsent)]

    def receive(self) -> bytes:
        """Return what has come."""
        try:
            data = self.sock.recv(RECEIVE_BYTES)
        except BlockingIOError:
            return b""
        if not data:
            raise ConnectionError("the broker closed a connection of the benchmark")
        return data

    def messages(self, wait_s: float) -> Iterator[tuple[bytes, bytes]]:
        """Yield topic and payload of the messages of QoS 0 that come within wait_s."""
        end_s = time.monotonic() + wait_s
        while select.select([self.sock], [], [], max(0.0, end_s - time.monotonic()))[0]:
            for kind, body in self.frames.feed(self.receive()):
                if kind == mqtt_packets.PUBLISH:
                    topic, payload = packets.published(body)
                    yield topic, bytes(payload)


def dial(host: str, port: int, client_id: str) -> Connection:
    """Connect a client to a broker that lets anybody in."""
    sock = socket.create_connection((host, port), timeout=TIMEOUT_S)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    sock.sendall(packets.connect(client_id))
    answer = sock.recv(4)
    if answer[:1] != b"\x20" or answer[3:4] != b"\0":
        sock.close()
        raise ConnectionError(f"the broker at {host}:{port} refused {client_id}: {answer.hex()}")
    return Connection(sock)
