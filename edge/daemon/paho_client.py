"""paho's client, set up from our settings, on a socket that is connected already."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from paho.mqtt.client import MQTT_CLEAN_START_FIRST_ONLY, Client
from paho.mqtt.enums import CallbackAPIVersion, MQTTProtocolVersion
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties

from edge.daemon.transport import BrokerSettings, Will

if TYPE_CHECKING:
    from paho.mqtt.client import SocketLike  # a Protocol that paho defines for type checkers only


def client_on(sock: SocketLike, settings: BrokerSettings, will: Will | None) -> Client:
    """Return a client with manual acknowledgement that will speak on the socket; nothing is sent yet."""
    version_5 = settings.protocol == 5
    client = _SocketClient(
        CallbackAPIVersion.VERSION2,
        client_id=settings.client_id,
        clean_session=None if version_5 else settings.clean_start or settings.session_expiry_s == 0,
        protocol=MQTTProtocolVersion.MQTTv5 if version_5 else MQTTProtocolVersion.MQTTv311,
        reconnect_on_failure=False,  # or paho answers a refusal by trying MQTT 3.1 without a word
        manual_ack=True,
    )
    client.connected_socket = sock
    client.suppress_exceptions = True
    client.max_inflight_messages = 0  # no limit: whoever publishes keeps one, and paho would queue without a bound
    client.username_pw_set(settings.username, settings.password)
    if will is not None:
        client.will_set(will.topic, will.payload, will.qos, will.retain)
    return client


def send_connect(client: Client, settings: BrokerSettings, clean_start: bool) -> None:
    """Begin the connection; CONNECT is written as soon as the socket takes it."""
    version_5 = settings.protocol == 5
    client.connect(
        settings.host,
        settings.port,
        settings.keepalive_s,
        clean_start=clean_start if version_5 else MQTT_CLEAN_START_FIRST_ONLY,  # what paho wants with MQTT 3.1.1
        properties=_connect_properties(settings) if version_5 else None,
    )


class LastFault(logging.Handler):
    """Keeps the last error that paho logs: the only place where it tells why a socket failed."""

    def __init__(self) -> None:
        super().__init__()
        self.text = ""
        self.logger = logging.Logger("paho", logging.ERROR)  # not in the logging tree, so nobody else hears it
        self.logger.addHandler(self)

    def emit(self, record: logging.LogRecord) -> None:
        """Remember the text."""
        self.text = record.getMessage()


def explain_refusal(settings: BrokerSettings, reason: str) -> str:
    """Say to a person why the broker did not accept the connection, and what to do."""
    return f"{settings.address} refused the connection: {reason}; {_ADVICE.get(reason, _SEE_LOG)}"


def explain_loss(settings: BrokerSettings, accepted: bool, closing: bool, fault: str) -> str:
    """Say to a person why the connection ended without a word of the broker, and what to do."""
    if closing:
        return f"the connection to {settings.address} was closed"
    if accepted:
        return f"the connection to {settings.address} was lost: {fault}"
    if fault == "Protocol error":
        version = "5" if settings.protocol == 5 else "3.1.1"
        return f"{settings.address} does not answer in MQTT {version}; check port and protocol"
    asks_for_certificate = settings.tls is not None and settings.tls.cert is None
    hint = "it may ask for a client's certificate" if asks_for_certificate else _SEE_LOG
    return f"{settings.address} hung up before it answered: {fault}; {hint}"


_SEE_LOG = "see the broker's log"
_ADVICE = {
    "Bad user name or password": "check username and password",
    "Not authorized": "check username, password and the broker's access rules",
    "Unsupported protocol version": "try the other protocol (5 or 3.1.1)",
    "Client identifier not valid": "choose another client_id",
}


class _SocketClient(Client):
    """paho's own way of connecting would block the loop, so it is handed a socket instead."""

    connected_socket: SocketLike

    def _create_socket(self) -> SocketLike:
        return self.connected_socket


def _connect_properties(settings: BrokerSettings) -> Properties:
    properties = Properties(PacketTypes.CONNECT)  # type: ignore[no-untyped-call]
    properties.SessionExpiryInterval = settings.session_expiry_s
    properties.ReceiveMaximum = settings.receive_maximum
    properties.MaximumPacketSize = settings.maximum_packet_bytes
    return properties
