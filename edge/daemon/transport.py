"""What the daemon asks of an MQTT client: its settings, its messages, its states, and the Protocol in front of it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from enum import Enum
from pathlib import Path
from typing import Literal, Protocol

from edge.errors import ConfigError, TransportError

QoS = Literal[0, 1]


@dataclass(frozen=True)
class TlsSettings:
    """How TLS is spoken; the broker's certificate and host name are always verified.

    ca: PEM bundle that signs the broker, the system's when None. cert, key: the client's certificate and its
    unencrypted key, both or neither (the key may stand in the file of the certificate).
    """

    ca: Path | None = None
    cert: Path | None = None
    key: Path | None = None


@dataclass(frozen=True)
class BrokerSettings:
    """Where the broker is and what session is held there; raises ConfigError for what no broker would take.

    client_id: names the session, so it must be one client's own and the same after a restart.
    session_expiry_s: how long the broker keeps subscriptions and undelivered messages while we are away. MQTT 3.1.1
        can't say how long: there, 0 asks for a clean session and anything else for one that the broker keeps.
    clean_start: forget the session of an earlier process. MQTT 5 does so at the first connect of a process only;
        MQTT 3.1.1 can't tell first from later ones, so there every reconnect starts clean too.
    receive_maximum, maximum_packet_bytes: told to an MQTT 5 broker, which then keeps at most so many messages
        unacknowledged and drops larger ones for us; MQTT 3.1.1 has neither, see `Message`.
    reconnect_min_s, reconnect_max_s: the first and the largest ceiling of the random pause between attempts.
    """

    client_id: str
    host: str = "127.0.0.1"
    port: int = 1883
    protocol: Literal[5, 311] = 5
    tls: TlsSettings | None = None
    username: str | None = None
    password: str | None = field(default=None, repr=False)
    keepalive_s: int = 30
    session_expiry_s: int = 3600
    receive_maximum: int = 200
    maximum_packet_bytes: int = 1 << 20
    clean_start: bool = False
    connect_timeout_s: float = 10.0
    reconnect_min_s: float = 0.5
    reconnect_max_s: float = 30.0

    def __post_init__(self) -> None:
        if problems := tuple(self._problems()):
            raise ConfigError("broker settings", problems)

    @property
    def address(self) -> str:
        """The broker as host:port, for messages to people."""
        return f"{self.host}:{self.port}"

    def _problems(self) -> list[str]:
        rules = (
            (bool(self.client_id), "client_id must not be empty: it names the session"),
            (bool(self.host), "host must not be empty"),
            (0 < self.port < 65536, f"port must be 1 to 65535, not {self.port}"),
            (self.protocol in (5, 311), f"protocol must be 5 or 311, not {self.protocol}"),
            (1 <= self.keepalive_s <= 65535, f"keepalive_s must be 1 to 65535, not {self.keepalive_s}"),
            (0 <= self.session_expiry_s < 1 << 32, "session_expiry_s must be 0 to 2^32-1"),
            (1 <= self.receive_maximum <= 65535, f"receive_maximum must be 1 to 65535, not {self.receive_maximum}"),
            (0 < self.maximum_packet_bytes < 1 << 28, "maximum_packet_bytes must be 1 to 2^28-1"),
            (self.password is None or self.username is not None, "password needs a username"),
            (self.connect_timeout_s > 0, "connect_timeout_s must be positive"),
            (
                0 < self.reconnect_min_s <= self.reconnect_max_s,
                "reconnect_min_s must be above 0, at most reconnect_max_s",
            ),
        )
        return [problem for holds, problem in rules if not holds]


@dataclass(frozen=True)
class Subscription:
    """A topic filter asked for at every connect; a broker that grants less than this QoS is refused."""

    topic_filter: str
    qos: QoS = 1


@dataclass(frozen=True)
class Will:
    """What the broker publishes for us when the connection dies without a DISCONNECT."""

    topic: str
    payload: bytes
    qos: QoS = 1
    retain: bool = True


@dataclass(eq=False, slots=True)
class Message:
    """One message received. With QoS 1 the broker keeps it, and sends it again in a later connection, until `ack`.

    A handler acknowledges in the order of arrival where it can (MQTT asks for it; brokers match by packet number).
    Size: an MQTT 5 broker does not send what exceeds `maximum_packet_bytes`; from an MQTT 3.1.1 broker a payload of
    any size arrives here, so the handler checks `len(payload)` before it parses.
    """

    topic: str
    payload: bytes
    qos: int
    retain: bool
    duplicate: bool
    _acknowledge: Callable[[], None] | None = field(default=None, repr=False)

    def ack(self) -> None:
        """Tell the broker that this message is dealt with; again, later than its connection, or at QoS 0: nothing."""
        acknowledge, self._acknowledge = self._acknowledge, None
        if acknowledge is not None:
            acknowledge()


class ConnectionState(Enum):
    """Where the connection to the broker stands."""

    CONNECTING = "connecting"
    CONNECTED = "connected"
    """Accepted, birth sent, every subscription granted."""
    WAITING = "waiting"
    """Between two attempts; `Transport.problem` says what went wrong."""
    STOPPED = "stopped"
    """`run` has not begun or has ended."""


class Transport(Protocol):
    """A client that keeps itself connected. Everything is called on the loop that runs `run`."""

    @property
    def state(self) -> ConnectionState:
        """Where the connection stands now."""

    @property
    def problem(self) -> TransportError | None:
        """Why there is no connection; None while there is one and before the first attempt has failed."""

    @property
    def dropped(self) -> int:
        """How many QoS 0 messages were thrown away, absent or blocked."""

    async def run(self) -> None:
        """Connect and keep connected until cancelled; then disconnect cleanly, so that no will is published."""

    async def publish(self, topic: str, payload: bytes, qos: QoS = 0, retain: bool = False) -> None:
        """Publish one message.

        QoS 1 returns when the broker has acknowledged it. It raises MessageRefusedError when the broker refuses it or
        leaves it unanswered, and TransportError when there is no connection or it ends first: the message may then
        have arrived or not, and the caller sends it again. QoS 0 never raises: it is dropped and counted when it can't
        be sent now.
        """
