"""The MQTT transport against a real broker: what is sent, what comes back, what is dropped."""

from __future__ import annotations

import asyncio

import pytest
from paho.mqtt import publish as plain_publish

from edge.daemon.transport import ConnectionState
from edge.errors import TransportError
from tests.helpers import eventually
from tests.mosquitto import Mosquitto
from tests.mqtt_client import MqttClient, retained, settings_for

both_protocols = pytest.mark.parametrize("protocol", [5, 311])


@both_protocols
async def test_what_one_client_publishes_another_receives_in_order(
    broker: Mosquitto, topic: str, protocol: int
) -> None:
    sent = [str(number).encode() for number in range(50)]
    async with (
        MqttClient(settings_for(broker, "reader", protocol=protocol), topic) as reader,
        MqttClient(settings_for(broker, "writer", protocol=protocol)) as writer,
    ):
        for payload in sent:
            await writer.transport.publish(topic, payload, qos=1)
        await reader.received(len(sent))
    assert reader.payloads == sent
    assert {(m.topic, m.qos, m.retain, m.duplicate) for m in reader.messages} == {(topic, 1, False, False)}


@both_protocols
async def test_a_message_of_a_plain_paho_client_arrives_as_it_was_sent(
    broker: Mosquitto, topic: str, protocol: int
) -> None:
    payload = bytes(range(256)) * 16
    async with MqttClient(settings_for(broker, "reader", protocol=protocol), topic) as reader:
        await asyncio.to_thread(plain_publish.single, topic, payload, 1, hostname=broker.host, port=broker.port)
        await reader.received(1)
    assert reader.payloads == [payload]


async def test_a_retained_message_stays_for_newcomers(broker: Mosquitto, topic: str) -> None:
    async with MqttClient(settings_for(broker, "writer")) as writer:
        await writer.transport.publish(topic, b"kept", qos=1, retain=True)
        assert await retained(broker, topic) == b"kept"


async def test_qos_0_is_sent_without_waiting(broker: Mosquitto, topic: str) -> None:
    async with MqttClient(settings_for(broker, "both"), topic) as client:
        await client.transport.publish(topic, b"fleeting")
        await client.received(1)
    assert client.messages[0].qos == 0
    assert client.transport.dropped == 0


async def test_many_publishers_at_once_are_each_acknowledged(broker: Mosquitto, topic: str) -> None:
    async with MqttClient(settings_for(broker, "both"), topic) as client:
        await asyncio.gather(*(client.transport.publish(topic, b"%d" % n, qos=1) for n in range(500)))
        await client.received(500)
    assert sorted(map(int, client.payloads)) == list(range(500))


@both_protocols
async def test_a_large_payload_goes_both_ways(broker: Mosquitto, topic: str, protocol: int) -> None:
    payload = bytes(900_000)
    async with MqttClient(settings_for(broker, "both", protocol=protocol), topic) as client:
        await client.transport.publish(topic, payload, qos=1)
        await client.received(1)
    assert client.payloads == [payload]


async def test_what_exceeds_the_packet_limit_never_reaches_us(broker: Mosquitto, topic: str) -> None:
    async with (
        MqttClient(settings_for(broker, "reader", maximum_packet_bytes=10_000), topic) as reader,
        MqttClient(settings_for(broker, "writer")) as writer,
    ):
        await writer.transport.publish(topic, bytes(20_000), qos=1)
        await writer.transport.publish(topic, b"small", qos=1)
        await reader.received(1)
        assert reader.payloads == [b"small"]
        assert reader.states.count(ConnectionState.CONNECTED) == 1


async def test_a_frozen_broker_is_noticed_and_a_waiting_publish_told(broker: Mosquitto, topic: str) -> None:
    async with MqttClient(settings_for(broker, "node", keepalive_s=1, connect_timeout_s=0.5)) as node:
        broker.freeze()
        with pytest.raises(TransportError, match="was lost"):
            await node.transport.publish(topic, b"unanswered", qos=1)
        await eventually(lambda: "does not answer in MQTT" in node.problem, what="the reason")
        broker.thaw()
        await node.connected()
        await node.transport.publish(topic, b"answered", qos=1)


async def test_qos_0_to_a_blocked_socket_is_dropped_and_counted(broker: Mosquitto, topic: str) -> None:
    async with MqttClient(settings_for(broker, "node")) as node:
        broker.freeze()
        for _ in range(500):
            await node.transport.publish(topic, bytes(65_536))
            await asyncio.sleep(0)
        assert node.transport.dropped > 100
        broker.thaw()
        await node.transport.publish(topic, b"through", qos=1)
        before = node.transport.dropped
        await node.transport.publish(topic, b"room again")
        assert node.transport.dropped == before


async def test_without_a_connection_qos_1_raises_and_qos_0_is_counted(broker: Mosquitto, topic: str) -> None:
    async with MqttClient(settings_for(broker, "node")) as node:
        broker.kill()
        await eventually(lambda: not node.is_connected())
        with pytest.raises(TransportError, match="not connected"):
            await node.transport.publish(topic, b"alert", qos=1)
        await node.transport.publish(topic, b"score")
        assert node.transport.dropped == 1
