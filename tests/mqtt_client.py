"""A transport in a test: its messages and states kept, its run ended with the block."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

from paho.mqtt import subscribe as plain_subscribe

from edge.daemon.paho_transport import PahoTransport
from edge.daemon.transport import BrokerSettings, ConnectionState, Message, Subscription, Will
from tests.helpers import eventually
from tests.mosquitto import Mosquitto


def settings_for(broker: Mosquitto, client_id: str, **changes: Any) -> BrokerSettings:
    """Settings for a broker of a test, impatient so that tests are quick."""
    quick: dict[str, Any] = {"reconnect_min_s": 0.02, "reconnect_max_s": 0.2}
    return BrokerSettings(**{"client_id": client_id, "host": broker.host, "port": broker.port, **quick, **changes})


class MqttClient:
    """`async with MqttClient(settings, topic) as client:` runs a transport; `acknowledge=False` holds back the acks."""

    def __init__(
        self,
        settings: BrokerSettings,
        *topics: str,
        acknowledge: bool = True,
        will: Will | None = None,
        birth: bytes = b"online",
        wait: bool = True,
        on_message: Callable[[Message], None] | None = None,
    ) -> None:
        self.messages: list[Message] = []
        self.states: list[ConnectionState] = []
        self.acknowledge = acknowledge
        self.transport = PahoTransport(
            settings,
            on_message or self.receive,
            on_state=self.states.append,
            subscriptions=[Subscription(topic) for topic in topics],
            will=will,
            birth=(lambda: birth) if will else None,
        )
        self._wait = wait
        self._task: asyncio.Task[None] | None = None

    @property
    def payloads(self) -> list[bytes]:
        return [message.payload for message in self.messages]

    @property
    def problem(self) -> str:
        return str(self.transport.problem or "")

    def receive(self, message: Message) -> None:
        self.messages.append(message)
        if self.acknowledge:
            message.ack()

    async def connected(self) -> None:
        await eventually(self.is_connected, what=f"a connection ({self.problem or 'no problem known'})")

    def is_connected(self) -> bool:
        return self.transport.state is ConnectionState.CONNECTED

    async def received(self, count: int) -> None:
        await eventually(lambda: len(self.messages) >= count, what=f"the arrival of {count} messages")

    def cancel(self) -> None:
        self.task.cancel()

    async def over(self) -> None:
        await asyncio.wait([self.task])

    @property
    def task(self) -> asyncio.Task[None]:
        assert self._task is not None, "not inside its block"
        return self._task

    async def __aenter__(self) -> MqttClient:
        self._task = asyncio.create_task(self.transport.run(), name="transport under test")
        if self._wait:
            await self.connected()
        return self

    async def __aexit__(self, *_: object) -> None:
        self.cancel()
        await self.over()
        assert self.task.cancelled(), self.task


async def retained(broker: Mosquitto, topic: str) -> bytes:
    """What a newcomer, plain paho, is given on the topic."""
    message = await asyncio.to_thread(plain_subscribe.simple, topic, 1, hostname=broker.host, port=broker.port)
    assert message.retain
    return bytes(message.payload)
