"""Who talks with the daemon over the broker, as plain paho clients: devices that publish, a ward that watches."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

from paho.mqtt.client import Client, MQTTMessage
from paho.mqtt.enums import CallbackAPIVersion, MQTTProtocolVersion
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties

from edge.alerts.events import AlertEvent, decode
from edge.stream.topics import dead_topic, node_health_topic, node_status_topic, wave_topic
from edge.stream.wire import Chunk, encode_msgpack
from tests.daemon import NODE, until
from tests.mosquitto import Mosquitto

SESSION_EXPIRY_S = 600


class Devices:
    """Publishes waves with QoS 1; what the broker has not confirmed is sent again after a reconnect."""

    def __init__(self, client: Client) -> None:
        self._client = client
        self._sent = self._confirmed = 0
        client.on_publish = self._note_confirmation

    def send(
        self, device: str, chunks: Iterable[Chunk], encode: Callable[[Chunk], bytes] = encode_msgpack, wait: bool = True
    ) -> None:
        """Publish chunks in this order and wait until the broker has them."""
        self.send_raw(wave_topic(device), (encode(chunk) for chunk in chunks), wait)

    def send_raw(self, topic: str, payloads: Iterable[bytes], wait: bool = True, retain: bool = False) -> None:
        """Publish any bytes anywhere."""
        for payload in payloads:
            self._client.publish(topic, payload, qos=1, retain=retain)
            self._sent += 1
        if wait:
            until(lambda: self._confirmed == self._sent, "the broker's confirmation")

    def _note_confirmation(self, *_: object) -> None:
        self._confirmed += 1


class Ward:
    """Keeps everything that the daemon says, by topic; its session outlives the broker."""

    def __init__(self) -> None:
        self._messages: list[tuple[str, bytes, bool]] = []
        self._lock = threading.Lock()
        self.subscribed = threading.Event()

    def receive(self, message: MQTTMessage) -> None:
        """Take note of a message."""
        with self._lock:
            self._messages.append((message.topic, bytes(message.payload), bool(message.retain)))

    def payloads(self, topic: str) -> list[bytes]:
        """Return what came on a topic, in order."""
        with self._lock:
            return [payload for found, payload, _ in self._messages if found == topic]

    def scores(self, device: str) -> list[dict[str, Any]]:
        """Return the scores of a device, in order of arrival."""
        return [json.loads(payload) for payload in self.payloads(f"ecg/v1/{device}/score")]

    def alerts(self, device: str, code: str | None = None) -> list[AlertEvent]:
        """Return the log of a device's alerts, of one code or of all, in order of arrival."""
        events = [decode(payload) for payload in self.payloads(f"ecg/v1/{device}/alert")]
        return [event for event in events if code in (None, event.code)]

    def condition(self, device: str, code: str) -> AlertEvent | None:
        """Return the newest of the retained conditions."""
        payloads = self.payloads(f"ecg/v1/{device}/alert/{code}")
        return decode(payloads[-1]) if payloads else None

    def dead(self) -> list[dict[str, Any]]:
        """Return the reports of refused payloads."""
        return [json.loads(payload) for payload in self.payloads(dead_topic(NODE))]

    def statuses(self) -> list[str]:
        """Return what the daemon, or its will, said of itself."""
        return [json.loads(payload)["state"] for payload in self.payloads(node_status_topic(NODE))]

    def healths(self) -> list[dict[str, Any]]:
        """Return what came on the health topic."""
        return [json.loads(payload) for payload in self.payloads(node_health_topic(NODE))]

    def await_scores(self, device: str, count: int) -> list[dict[str, Any]]:
        """Wait for so many scores of a device and return them."""
        until(lambda: len(self.scores(device)) >= count, f"{count} scores of {device}")
        return self.scores(device)

    def await_alert(self, device: str, code: str, state: str) -> AlertEvent:
        """Wait for a change of a condition and return it."""
        found: list[AlertEvent] = []

        def arrived() -> bool:
            found[:] = [event for event in self.alerts(device, code) if event.state.value == state]
            return bool(found)

        until(arrived, f"{code} {state} of {device}")
        return found[-1]


@contextmanager
def devices_on(broker: Mosquitto) -> Iterator[Devices]:
    """Connect a publisher of waves."""
    with _client(broker, "devices") as client:
        yield Devices(client)


@contextmanager
def ward_on(broker: Mosquitto, name: str = "ward") -> Iterator[Ward]:
    """Connect one who watches all topics but the waves."""
    ward = Ward()
    with _client(broker, name, ward) as client:
        until(client.is_connected, "the ward's connection")
        until(ward.subscribed.is_set, "the ward's subscription")
        yield ward


@contextmanager
def _client(broker: Mosquitto, name: str, ward: Ward | None = None) -> Iterator[Client]:
    client = Client(CallbackAPIVersion.VERSION2, client_id=name, protocol=MQTTProtocolVersion.MQTTv5)
    client.max_inflight_messages_set(200)
    client.max_queued_messages_set(0)
    client.reconnect_delay_set(1, 1)
    if ward is not None:
        topics = ("ecg/v1/+/score", "ecg/v1/+/alert/#", "ecg/v1/edge/+/+", "ecg/v1/dead/+")
        client.on_connect = lambda connected, *_: connected.subscribe([(topic, 1) for topic in topics])
        client.on_subscribe = lambda *_: ward.subscribed.set()
        client.on_message = lambda _client, _data, message: ward.receive(message)
    properties = Properties(PacketTypes.CONNECT)
    properties.SessionExpiryInterval = SESSION_EXPIRY_S
    client.connect(broker.host, broker.port, clean_start=False, properties=properties)
    client.loop_start()
    try:
        yield client
    finally:
        client.disconnect()
        client.loop_stop()
