"""The MQTT transport against a real broker: what is sent, what comes back, and what outlives a connection."""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path

import pytest
from paho.mqtt import publish as plain_publish
from paho.mqtt import subscribe as plain_subscribe

from edge.daemon.transport import ConnectionState, Message, Will
from edge.errors import TransportError
from tests.helpers import eventually
from tests.mosquitto import Mosquitto
from tests.mqtt_client import MqttClient, settings_for

both_protocols = pytest.mark.parametrize("protocol", [5, 311])


async def retained(broker: Mosquitto, topic: str) -> bytes:
    """What a newcomer, plain paho, is given on the topic."""
    message = await asyncio.to_thread(plain_subscribe.simple, topic, 1, hostname=broker.host, port=broker.port)
    assert message.retain
    return bytes(message.payload)


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


@both_protocols
async def test_a_message_not_acknowledged_comes_again_in_the_next_connection(
    broker: Mosquitto, topic: str, protocol: int
) -> None:
    settings = settings_for(broker, "reader", protocol=protocol)
    async with (
        MqttClient(settings, topic, acknowledge=False) as reader,
        MqttClient(settings_for(broker, "writer")) as writer,
    ):
        for payload in (b"one", b"two"):
            await writer.transport.publish(topic, payload, qos=1)
        await reader.received(2)
        reader.messages[0].ack()
        reader.messages[0].ack()  # a second time is harmless
    async with MqttClient(settings, topic) as reader:
        await reader.received(1)
    assert [(m.payload, m.duplicate) for m in reader.messages] == [(b"two", True)]


async def test_an_acknowledgement_for_an_earlier_connection_acknowledges_nothing(broker: Mosquitto, topic: str) -> None:
    settings = settings_for(broker, "reader")
    async with (
        MqttClient(settings, topic, acknowledge=False) as first,
        MqttClient(settings_for(broker, "writer")) as writer,
    ):
        await writer.transport.publish(topic, b"kept", qos=1)
        await first.received(1)
        await first.end()
        async with MqttClient(settings, topic, acknowledge=False) as second:
            await second.received(1)
            first.messages[0].ack()
        async with MqttClient(settings, topic) as third:
            await third.received(1)
    assert third.payloads == [b"kept"]


async def test_the_broker_sends_no_more_than_receive_maximum_unacknowledged(broker: Mosquitto, topic: str) -> None:
    settings = settings_for(broker, "reader", receive_maximum=30)
    async with (
        MqttClient(settings, topic, acknowledge=False) as reader,
        MqttClient(settings_for(broker, "writer")) as writer,
    ):
        for _ in range(100):
            await writer.transport.publish(topic, b"held", qos=1)
        await writer.transport.publish(topic, b"marker")  # QoS 0 is not held back, so it tells that no more comes
        await eventually(lambda: b"marker" in reader.payloads)
        assert reader.payloads.count(b"held") == 30
        reader.acknowledge = True
        for message in list(reader.messages):
            message.ack()
        await reader.received(101)


@both_protocols
async def test_messages_published_while_we_were_away_arrive_after_return(
    broker: Mosquitto, topic: str, protocol: int
) -> None:
    settings = settings_for(broker, "reader", protocol=protocol)
    sent = [b"%d" % number for number in range(300)]
    async with MqttClient(settings, topic):
        pass
    async with MqttClient(settings_for(broker, "writer")) as writer:
        for payload in sent:
            await writer.transport.publish(topic, payload, qos=1)
    broker.restart()  # the broker's own restart loses nothing either
    async with MqttClient(settings, topic) as reader:
        await reader.received(len(sent))
    assert reader.payloads == sent


@both_protocols
async def test_a_clean_start_forgets_what_was_kept(broker: Mosquitto, topic: str, protocol: int) -> None:
    settings = settings_for(broker, "reader", protocol=protocol)
    async with MqttClient(settings, topic):
        pass
    async with MqttClient(settings_for(broker, "writer")) as writer:
        await writer.transport.publish(topic, b"old", qos=1)
        clean = settings_for(broker, "reader", protocol=protocol, clean_start=True)
        async with MqttClient(clean, topic) as reader:
            await writer.transport.publish(topic, b"new", qos=1)
            await reader.received(1)
    assert reader.payloads == [b"new"]


@both_protocols
async def test_after_a_broker_crash_connection_birth_and_subscriptions_come_again(
    broker: Mosquitto, topic: str, protocol: int
) -> None:
    will = Will(f"{topic}/status", b"offline")
    settings = settings_for(broker, "node", protocol=protocol, session_expiry_s=0)
    async with MqttClient(settings, topic, will=will) as node:
        broker.kill()
        await eventually(lambda: node.transport.state is not ConnectionState.CONNECTED)
        await eventually(lambda: "connection refused" in node.problem, what="the reason")
        broker.start()
        await node.connected()
        assert node.transport.problem is None
        assert await retained(broker, will.topic) == b"online"
        await node.transport.publish(topic, b"again", qos=1)
        await node.received(1)
    assert node.states.count(ConnectionState.CONNECTED) == 2
    assert node.states[-1] is ConnectionState.STOPPED


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


async def test_the_will_is_published_retained_when_the_process_dies(broker: Mosquitto, topic: str) -> None:
    program = f"""
import asyncio
from edge.daemon.paho_transport import PahoTransport
from edge.daemon.transport import BrokerSettings, Will
settings = BrokerSettings("mortal", port={broker.port})
asyncio.run(PahoTransport(settings, print, will=Will("{topic}", b"offline"), birth=lambda: b"online").run())
"""
    async with MqttClient(settings_for(broker, "watch"), topic) as watch:
        root = Path(__file__).parents[2]
        process = await asyncio.create_subprocess_exec(sys.executable, "-c", program, cwd=root)
        await eventually(lambda: watch.payloads == [b"online"], what="the birth")
        process.kill()
        await process.wait()
        await eventually(lambda: watch.payloads == [b"online", b"offline"], what="the will")
    assert await retained(broker, topic) == b"offline"


async def test_a_cancelled_run_says_goodbye_even_with_megabytes_unread(broker: Mosquitto, topic: str) -> None:
    will = Will(f"{topic}/status", b"offline")
    settings = settings_for(broker, "node")

    def cancel_at_the_first(message: Message) -> None:
        assert node.task is not None
        node.task.cancel()

    async with MqttClient(settings, topic):
        pass
    async with MqttClient(settings_for(broker, "writer")) as writer:
        await asyncio.gather(*(writer.transport.publish(topic, bytes(500_000), qos=1) for _ in range(60)))
    node = MqttClient(settings, topic, will=will, on_message=cancel_at_the_first, wait=False)
    async with node:
        assert node.task is not None
        await asyncio.wait([node.task])
    await eventually(lambda: broker.log.count("Client node disconnected.") == 2, what="the broker's noting a DISCONNECT")
    assert broker.log.count("Client node") == 2


async def test_a_handler_that_raises_does_not_stall_the_stream(broker: Mosquitto, topic: str) -> None:
    seen: list[bytes] = []

    def refuse_poison(message: Message) -> None:
        seen.append(message.payload)
        if message.payload == b"poison":
            raise ValueError("cannot take this")
        message.ack()

    async with MqttClient(settings_for(broker, "writer")) as writer:
        async with MqttClient(settings_for(broker, "reader"), topic, on_message=refuse_poison):
            await writer.transport.publish(topic, b"poison", qos=1)
            await writer.transport.publish(topic, b"food", qos=1)
            await eventually(lambda: seen == [b"poison", b"food"])
        async with MqttClient(settings_for(broker, "reader"), topic) as later:
            await writer.transport.publish(topic, b"next", qos=1)
            await later.received(1)
    assert later.payloads == [b"next"]


async def test_cancelling_leaves_no_task_and_no_socket(broker: Mosquitto, topic: str) -> None:
    def open_files() -> set[str]:
        return {str(link.readlink()) for link in Path("/proc/self/fd").iterdir() if link.is_symlink()}

    async with MqttClient(settings_for(broker, "first")):
        pass  # what the loop itself opens once is open now
    before = open_files()
    async with MqttClient(settings_for(broker, "node"), topic, will=Will(topic, b"offline")) as node:
        await node.received(1)
        assert open_files() != before
    assert open_files() == before
    assert asyncio.all_tasks() == {asyncio.current_task()}
