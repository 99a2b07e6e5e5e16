"""The MQTT transport and brokers that refuse it: the reason is clear, and it keeps trying."""

from __future__ import annotations

import asyncio
import socket
import socketserver
import threading
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import replace
from pathlib import Path

import pytest

from edge.daemon.transport import BrokerSettings, ConnectionState, TlsSettings
from edge.errors import ConfigError, MessageRefusedError, TransportError
from tests.helpers import eventually
from tests.integration.conftest import Certificates, StartBroker
from tests.mosquitto import HOST, Mosquitto, ServerTls
from tests.mqtt_client import MqttClient, settings_for

both_protocols = pytest.mark.parametrize("protocol", [5, 311])
Conversation = Callable[[socket.socket], None]


@asynccontextmanager
async def scripted_broker(conversation: Conversation) -> AsyncIterator[int]:
    """A listener that answers as no mosquitto can be made to; gives its port.

    It has threads of its own, and at the end all of them are waited for: nothing of it is left to another test.
    """

    class Converse(socketserver.BaseRequestHandler):
        def handle(self) -> None:
            with suppress(ConnectionError):
                conversation(self.request)
                until_hung_up(self.request)

    with socketserver.ThreadingTCPServer((HOST, 0), Converse) as server:
        answering = asyncio.create_task(asyncio.to_thread(server.serve_forever, 0.01))
        try:
            yield server.server_address[1]
        finally:
            await asyncio.to_thread(server.shutdown)
            await answering


def until_hung_up(sock: socket.socket) -> bytes:
    """Read to the end; return what came."""
    return b"".join(iter(lambda: sock.recv(1 << 16), b""))


async def tries_again_and_says(client: MqttClient, *words: str) -> None:
    """The client goes on trying, and its problem names all of the words."""
    await eventually(lambda: client.states.count(ConnectionState.CONNECTING) >= 3, what="the third attempt")
    assert ConnectionState.CONNECTED not in client.states
    for word in words:
        assert word in client.problem


@both_protocols
async def test_a_wrong_password_is_named_and_the_right_one_is_let_in(start_broker: StartBroker, protocol: int) -> None:
    broker = start_broker(users={"edge": "right"})
    settings = settings_for(broker, "node", protocol=protocol, username="edge", password="wrong")
    async with MqttClient(settings, wait=False) as client:
        await tries_again_and_says(client, "refused the connection", "check username", f"{broker.host}:{broker.port}")
        with pytest.raises(TransportError, match="refused the connection"):
            await client.transport.publish("any/topic", b"alert", qos=1)
    async with MqttClient(replace(settings, password="right")):
        pass
    assert "wrong" not in repr(settings)


@both_protocols
async def test_tls_with_both_sides_certificates(
    start_broker: StartBroker, certificates: Certificates, topic: str, protocol: int
) -> None:
    broker = start_broker(tls=ServerTls(certificates.server, certificates.server, client_ca=certificates.ca))
    tls = TlsSettings(certificates.ca, certificates.client, certificates.client)
    payload = bytes(300_000)
    async with MqttClient(settings_for(broker, "node", protocol=protocol, tls=tls), topic) as client:
        await asyncio.gather(*(client.transport.publish(topic, payload, qos=1) for _ in range(10)))
        await client.received(10)
    assert client.payloads == [payload] * 10
    assert "Client node disconnected." in broker.log


async def test_a_broker_of_an_unknown_authority_is_refused(
    start_broker: StartBroker, certificates: Certificates
) -> None:
    broker = start_broker(tls=ServerTls(certificates.server, certificates.server))
    tls = TlsSettings(certificates.stranger_ca)
    async with MqttClient(settings_for(broker, "node", tls=tls), wait=False) as client:
        await tries_again_and_says(client, "certificate", "is refused", str(certificates.stranger_ca))


async def test_a_certificate_for_another_host_is_refused(start_broker: StartBroker, certificates: Certificates) -> None:
    broker = start_broker(tls=ServerTls(certificates.elsewhere, certificates.elsewhere))
    async with MqttClient(settings_for(broker, "node", tls=TlsSettings(certificates.ca)), wait=False) as client:
        await tries_again_and_says(client, "certificate", "is refused", "mismatch", broker.host)


async def test_a_missing_client_certificate_is_named(start_broker: StartBroker, certificates: Certificates) -> None:
    broker = start_broker(tls=ServerTls(certificates.server, certificates.server, client_ca=certificates.ca))
    settings = settings_for(broker, "node", tls=TlsSettings(certificates.ca))
    async with MqttClient(settings, wait=False) as client:
        await tries_again_and_says(client, "ask for a client's certificate")


async def test_a_broker_without_tls_is_named_when_tls_is_wanted(broker: Mosquitto, certificates: Certificates) -> None:
    settings = settings_for(broker, "node", tls=TlsSettings(certificates.ca))
    async with MqttClient(settings, wait=False) as client:
        await tries_again_and_says(client, "TLS listener")


async def test_a_certificate_file_that_is_none_is_named(broker: Mosquitto, tmp_path: Path) -> None:
    absent = tmp_path / "absent.pem"
    async with MqttClient(settings_for(broker, "node", tls=TlsSettings(absent)), wait=False) as client:
        await tries_again_and_says(client, str(absent), "No such file")


async def test_an_unknown_host_name_is_named(broker: Mosquitto) -> None:
    async with MqttClient(settings_for(broker, "node", host="nowhere.invalid"), wait=False) as client:
        await tries_again_and_says(client, "'nowhere.invalid' cannot be resolved")


async def test_a_message_that_the_broker_refuses_is_named_and_the_next_one_goes_out(
    start_broker: StartBroker, topic: str
) -> None:
    broker = start_broker(rules=["topic readwrite free/#"])
    async with MqttClient(settings_for(broker, "node"), f"free/{topic}") as client:
        with pytest.raises(MessageRefusedError, match=f"refused a message on {topic}: Not authorized"):
            await client.transport.publish(topic, b"alert", qos=1)
        await client.transport.publish(f"free/{topic}", b"alert", qos=1)
        await client.received(1)


async def test_a_message_that_is_never_acknowledged_is_given_up_with_its_connection_and_the_next_one_has_both(
    topic: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("edge.daemon.publisher.ACKNOWLEDGED_WITHIN_S", 0.1)
    connections: list[socket.socket] = []

    def forget_the_first_message(sock: socket.socket) -> None:
        connections.append(sock)
        sock.recv(1000)
        sock.sendall(bytes.fromhex("20 03 00 00 00"))  # CONNACK: success, no properties
        packet = sock.recv(1000)
        if len(connections) > 1:
            number_at = 2 + 2 + len(topic)
            sock.sendall(bytes.fromhex("40 02") + packet[number_at : number_at + 2])  # PUBACK: success

    async with scripted_broker(forget_the_first_message) as port:
        async with MqttClient(BrokerSettings("node", port=port, reconnect_min_s=0.01)) as client:
            with pytest.raises(MessageRefusedError, match=f"{topic}: no PUBACK within 0.1 s") as caught:
                await client.transport.publish(topic, b"alert", qos=1)
            assert caught.value.topic == topic
            await eventually(lambda: client.states.count(ConnectionState.CONNECTED) == 2, what="the next connection")
            await client.transport.publish(topic, b"alert", qos=1)
        assert len(connections) == 2


async def test_a_message_larger_than_the_broker_takes_is_refused_before_it_is_sent(topic: str) -> None:
    def take_little(sock: socket.socket) -> None:
        sock.recv(1000)
        sock.sendall(bytes.fromhex("20 08 00 00 05 27 00 00 00 64"))  # CONNACK: success, packets of 100 bytes at most

    async with scripted_broker(take_little) as port, MqttClient(BrokerSettings("node", port=port)) as client:
        with pytest.raises(MessageRefusedError, match="larger than the broker takes"):
            await client.transport.publish(topic, bytes(100), qos=1)
        assert client.states.count(ConnectionState.CONNECTED) == 1


async def test_a_refused_subscription_ends_the_connection_so_that_the_will_is_published(topic: str) -> None:
    farewells: set[bytes] = set()

    def refuse_subscription(sock: socket.socket) -> None:
        sock.recv(1000)
        sock.sendall(bytes.fromhex("20 03 00 00 00"))  # CONNACK: success, no properties
        number = sock.recv(1000)[2:4]
        sock.sendall(bytes.fromhex("90 04") + number + bytes.fromhex("00 87"))  # SUBACK: not authorised
        farewells.add(until_hung_up(sock))

    async with scripted_broker(refuse_subscription) as port:
        settings = BrokerSettings("node", port=port, reconnect_min_s=0.01)
        async with MqttClient(settings, topic, wait=False) as client:
            await tries_again_and_says(client, f"did not grant the subscription to {topic}", "Not authorized")
            await eventually(lambda: farewells, what="the end of a connection")
            of_refused = set(farewells)  # those before the client leaves: its DISCONNECT may meet the next connection
    assert of_refused == {b""}  # no DISCONNECT, which would revoke the will


@pytest.mark.parametrize("with_tls", [False, True])
async def test_a_listener_that_never_answers_is_given_up_and_tried_again(
    with_tls: bool, certificates: Certificates
) -> None:
    def say_nothing(sock: socket.socket) -> None:
        pass

    tls = TlsSettings(certificates.ca) if with_tls else None
    async with scripted_broker(say_nothing) as port:
        settings = BrokerSettings("node", port=port, tls=tls, connect_timeout_s=0.05, reconnect_min_s=0.01)
        async with MqttClient(settings, wait=False) as client:
            await tries_again_and_says(client, "does not answer", "0.05 s")


@pytest.mark.parametrize("with_tls", [False, True])
async def test_a_run_that_waits_for_an_answer_is_cancelled_at_once(with_tls: bool, certificates: Certificates) -> None:
    heard = threading.Event()

    def say_nothing(sock: socket.socket) -> None:
        sock.recv(1)
        heard.set()

    tls = TlsSettings(certificates.ca) if with_tls else None
    async with scripted_broker(say_nothing) as port:
        client = MqttClient(BrokerSettings("node", port=port, tls=tls, connect_timeout_s=60), wait=False)
        async with client:
            await eventually(heard.is_set, what="the first byte")
            begun = time.monotonic()
        assert time.monotonic() - begun < 5


@pytest.mark.parametrize(
    "answer",
    [
        pytest.param(b"\xff" * 64, id="noise"),
        pytest.param(b"HTTP/1.1 400 Bad Request\r\n\r\n", id="http"),
        pytest.param(b"\x20\x7f\x00", id="half a packet"),
        pytest.param(b"\x20\x03\x00\xfe\x00", id="unknown reason"),
        pytest.param(b"\x30\x02\x00\x09", id="topic beyond the packet"),
    ],
)
async def test_answers_that_are_no_mqtt_end_one_connection_and_nothing_else(answer: bytes) -> None:
    def babble(sock: socket.socket) -> None:
        sock.recv(1000)
        sock.sendall(answer)

    async with scripted_broker(babble) as port:
        settings = BrokerSettings("node", port=port, connect_timeout_s=0.2, reconnect_min_s=0.01)
        async with MqttClient(settings, wait=False) as client:
            await tries_again_and_says(client, f"127.0.0.1:{port}")


def test_settings_no_broker_would_take_are_refused_all_at_once() -> None:
    with pytest.raises(ConfigError) as caught:
        BrokerSettings("", port=0, keepalive_s=0, password="secret")
    assert len(caught.value.problems) == 4
    assert "secret" not in str(caught.value)
