"""The MQTT transport and what outlives a connection: sessions, acknowledgements, wills, and a clean end."""

from __future__ import annotations

import asyncio
import sys
import time
from pathlib import Path

import pytest

from edge.daemon.transport import ConnectionState, Message, Will
from tests.helpers import eventually
from tests.mosquitto import Mosquitto
from tests.mqtt_client import MqttClient, retained, settings_for

ROUNDS = 5
both_protocols = pytest.mark.parametrize("protocol", [5, 311])


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
        first.cancel()
        await first.over()
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
    settings = settings_for(broker, "node", receive_maximum=500)

    def cancel_at_the_first(message: Message) -> None:
        node.cancel()
        time.sleep(0.005)  # slower than the broker, so that the socket fills up

    async with MqttClient(settings, topic):
        pass
    async with MqttClient(settings_for(broker, "writer")) as writer:
        await asyncio.gather(*(writer.transport.publish(topic, bytes(65_536), qos=1) for _ in range(400)))
    for _ in range(ROUNDS):  # it is a race: one round proves little
        node = MqttClient(settings, topic, will=will, on_message=cancel_at_the_first, wait=False)
        async with node:
            await node.over()
    goodbyes = ROUNDS + 1
    await eventually(lambda: broker.log.count("Client node ") >= goodbyes, what="the broker's noting every end")
    assert broker.log.count("Client node disconnected.") == goodbyes


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


async def test_what_is_made_of_kept_messages_goes_out_while_the_birth_is_on_its_way(
    broker: Mosquitto, topic: str
) -> None:
    settings, answers = settings_for(broker, "answering"), set()

    def answer(message: Message) -> None:
        message.ack()
        publishing = answering.transport.publish(f"{topic}/answer", message.payload)
        answers.add(asyncio.get_running_loop().create_task(publishing))

    async with MqttClient(settings, topic):
        pass
    async with MqttClient(settings_for(broker, "hearing"), f"{topic}/answer") as hearing:
        for number in range(20):
            await hearing.transport.publish(topic, b"%d" % number, qos=1)
        answering = MqttClient(settings, topic, will=Will(f"{topic}/status", b"offline"), on_message=answer)
        async with answering:
            await hearing.received(20)
    assert answering.transport.dropped == 0
