"""What the demo sees of the monitor: a plain MQTT subscriber that keeps the latest of everything."""

from __future__ import annotations

import threading
import time
from collections import deque
from dataclasses import dataclass, field, replace
from typing import Any

import msgspec
import numpy as np
import paho.mqtt.client as mqtt
from paho.mqtt.enums import CallbackAPIVersion

from edge.stream.topics import ROOT, node_health_topic
from edge.stream.wire import Chunk, to_millivolts

MAX_LOG = 200
MAX_SENT = 4000
STRIP_S = 3.0
LATENCIES_KEPT = 100_000
NODE_HEALTH = node_health_topic("demo")
WATCHED = [(f"{ROOT}/+/score", 0), (f"{ROOT}/+/alert", 1), (NODE_HEALTH, 1)]


@dataclass(frozen=True)
class StreamPicture:
    """One stream as the view shows it."""

    device: str
    source: str
    state: str = "starting"
    quality: float | None = None
    probabilities: dict[str, float] = field(default_factory=dict)
    strip_mv: tuple[float, ...] = ()
    """The last seconds of lead II."""
    open_alerts: tuple[str, ...] = ()


@dataclass(frozen=True)
class Picture:
    """Everything at one moment."""

    streams: tuple[StreamPicture, ...]
    log: tuple[dict[str, Any], ...]
    chunks: int
    scores: int
    alerts: int
    latency_ms: dict[str, float | None]
    model: str
    runtime: str


class Watcher:
    """Subscribes to scores and alerts and is told what devices send. Threads of several devices may call it."""

    def __init__(self, host: str, port: int, sources: dict[str, str]) -> None:
        """sources: device → what it plays."""
        self._lock = threading.Lock()
        self._streams = {device: StreamPicture(device, source) for device, source in sources.items()}
        self._open: dict[str, dict[str, str]] = {device: {} for device in sources}
        self._sent: dict[str, deque[tuple[str, int, float]]] = {device: deque(maxlen=MAX_SENT) for device in sources}
        self._log: deque[dict[str, Any]] = deque(maxlen=MAX_LOG)
        self._latencies_ms: deque[float] = deque(maxlen=LATENCIES_KEPT)
        self._chunks = self._scores = self._alerts = 0
        self._model = self._runtime = ""
        self.daemon_online = threading.Event()
        """Set when the daemon publishes its health, so is connected and subscribed: chunks sent before are lost."""
        self._client = mqtt.Client(CallbackAPIVersion.VERSION2, client_id="demo-watcher")
        self._client.on_connect = lambda client, *_: client.subscribe(WATCHED)
        self._client.on_message = lambda client, data, message: self._receive(message.topic, bytes(message.payload))
        self._client.connect(host, port)

    def __enter__(self) -> Watcher:
        self._client.loop_start()
        return self

    def __exit__(self, *_: object) -> None:
        self._client.disconnect()
        self._client.loop_stop()

    def note_sent(self, device: str, chunk: Chunk) -> None:
        """Take note of a chunk that a device is about to send."""
        lead_two_mv = to_millivolts(chunk)[0][:, chunk.leads.index("II")] if "II" in chunk.leads else np.zeros(1)
        with self._lock:
            self._chunks += 1
            self._sent[device].append((chunk.session, chunk.end, time.monotonic()))
            stream = self._streams[device]
            samples = np.append(stream.strip_mv, np.nan_to_num(lead_two_mv))[-round(STRIP_S * chunk.rate_hz) :]
            self._streams[device] = replace(stream, strip_mv=tuple(samples.tolist()))

    def picture(self) -> Picture:
        """Return all that is known now."""
        with self._lock:
            latencies = np.array(self._latencies_ms)
            p50, p99 = np.percentile(latencies, [50, 99]).round(2).tolist() if len(latencies) else (None, None)
            return Picture(
                tuple(self._streams.values()), tuple(self._log), self._chunks, self._scores, self._alerts,
                {"p50": p50, "p99": p99}, self._model, self._runtime,
            )  # fmt: skip

    def _receive(self, topic: str, payload: bytes) -> None:
        arrived_s = time.monotonic()
        if topic == NODE_HEALTH:
            self.daemon_online.set()
            return
        device, kind = topic.split("/")[2:4]
        message = msgspec.json.decode(payload)
        with self._lock:
            if device in self._streams:
                (self._take_score if kind == "score" else self._take_alert)(device, message, arrived_s)

    def _take_score(self, device: str, score: dict[str, Any], arrived_s: float) -> None:
        self._scores += 1
        self._model, self._runtime = score["model"], score["runtime"]
        self._streams[device] = replace(
            self._streams[device], state=score["state"], quality=score["quality"], probabilities=score["p"] or {}
        )
        sent = self._sent[device]
        while sent:
            session, end, sent_s = sent[0]
            if session == score["s"] and end > score["i"]:
                self._latencies_ms.append((arrived_s - sent_s) * 1000)
                return
            sent.popleft()

    def _take_alert(self, device: str, alert: dict[str, Any], arrived_s: float) -> None:
        self._alerts += 1
        self._log.append(alert)
        opened = self._open[device]
        if alert["state"] == "cleared":
            opened.pop(alert["code"], None)
        else:
            opened[alert["code"]] = alert["priority"]
        self._streams[device] = replace(self._streams[device], open_alerts=tuple(sorted(opened)))
