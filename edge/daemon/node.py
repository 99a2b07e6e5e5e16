"""The daemon: start up, run until told to stop, shut down with nothing lost."""

from __future__ import annotations

import asyncio
import contextlib
import signal
from collections.abc import Callable, Coroutine
from typing import Any

import msgspec
import structlog

from edge import __version__
from edge.clock import Clock, SystemClock
from edge.daemon.alert_settings import alert_policy
from edge.daemon.broker_settings import broker_settings
from edge.daemon.config import Config
from edge.daemon.health import HealthReporter, progress_of
from edge.daemon.http import HttpEndpoint
from edge.daemon.intake import Intake
from edge.daemon.keeper import Keeper
from edge.daemon.metrics import CONTENT_TYPE, Metrics
from edge.daemon.model_thread import model_thread
from edge.daemon.outgoing import Outgoing
from edge.daemon.paho_transport import PahoTransport
from edge.daemon.pipeline import Pipeline
from edge.daemon.registry import Registry
from edge.daemon.stores import open_stores
from edge.daemon.streams import StreamFactory, StreamKeeper
from edge.daemon.systemd import Notifier, Watchdog, watchdog_interval_s
from edge.daemon.transport import ConnectionState, Message, Subscription, Will
from edge.daemon.workers import Disk
from edge.errors import TransportError
from edge.runtime.bundle import load_bundle
from edge.runtime.select import open_or_fall_back
from edge.stream.topics import WAVE_FILTER, dead_topic, node_status_topic

DRAIN_DEADLINE_S = 5.0
SAVE_DEADLINE_S = 15.0
"""What is left of systemd's 30 s for a disk that is slow."""
ALERTS_WAIT_S = 2.0
SNAPSHOTS_WAIT_S = 10.0
"""How long a disk may take: alerts then go out from memory, and no more streams are saved until it has answered."""
DRAIN_POLL_S = 0.02
CANCEL_AGAIN_S = 4.0
"""Longer than a transport takes to say goodbye."""

log = structlog.get_logger(__name__)


class Node:
    """One daemon. `run` returns after `stop` was called (or a signal came) and everything is put away."""

    def __init__(self, config: Config, clock: Clock | None = None) -> None:
        """Load the bundle and open the stores; raises an EcgEdgeError when the daemon cannot work like this."""
        self.config = config
        self.metrics = Metrics()
        self._clock = clock or SystemClock()
        self._bundle = load_bundle(config.model.bundle)
        self._runtime = open_or_fall_back(self._bundle, config.model.runtime, config.model.threads)
        self._policy = alert_policy(config.alerts, self._bundle.manifest)
        self._stores = open_stores(config.node.state_dir, self.metrics.dropped_alerts.inc)
        self._broker = broker_settings(config)
        self._stopping = asyncio.Event()
        self._draining = False
        self._at_the_end: dict[str, object] | None = None
        """How things stood before it said goodbye to its broker."""
        self._connections = 0
        self._assemble()

    @property
    def largest_message_bytes(self) -> int:
        """What the broker was told it may send us."""
        return self._broker.maximum_packet_bytes

    def stop(self) -> None:
        """Ask the daemon to shut down; only from its own loop."""
        self._stopping.set()

    async def run(self) -> None:
        """Run until stopped. Raises what a task of it died of, after the same orderly shutdown."""
        notifier, endpoint = self._notifier, self._start_endpoint()
        restored = await self._restore()
        tasks = [self._spawn(name, job) for name, job in self._jobs().items()]
        notifier.ready(self._health.status_line())
        log.info("started", version=__version__, node=self.config.node.name, model=self._bundle.manifest.name,
                 runtime=self._runtime.name, streams_restored=restored)  # fmt: skip
        stopping = self._spawn("stop", self._stopping.wait())
        try:
            done, _ = await asyncio.wait([stopping, *tasks], return_when=asyncio.FIRST_COMPLETED)
            notifier.stopping()
            await self._drain()
            self._at_the_end = self._picture()
        finally:
            await _cancel([*tasks, stopping])
            self._close()
            if endpoint is not None:
                endpoint.stop()
            notifier.close()
        log.info("stopped")
        for task in done:
            task.result()

    def reload(self, config: Config) -> None:
        """Take over what can change while running: alert rules, stream limits, published scores.

        Raises ConfigError, with nothing changed, when the new rules do not fit the model.
        """
        policy = alert_policy(config.alerts, self._bundle.manifest)
        self._policy = self._factory.policy = policy
        self._factory.config = config.streams
        self._registry.max_streams, self._registry.silent_after_s = (
            config.streams.max_streams, config.streams.silent_after_s,
        )  # fmt: skip
        self._intake.max_payload_bytes = config.streams.max_payload_bytes
        self._pipeline.publish_scores = config.publish.scores
        for stream in self._registry:
            self._factory.adjust(stream)
        self.config = config

    def notify_reloading(self) -> None:
        """Tell the service manager that a reload begins."""
        self._notifier.reloading()

    def notify_ready(self) -> None:
        """Tell the service manager that it has ended."""
        self._notifier.ready(self._health.status_line())

    def summary(self) -> dict[str, object]:
        """Return what was done so far; only from the daemon's own loop, or after its end."""
        return self._at_the_end or self._picture()

    def _picture(self) -> dict[str, object]:
        self._streams.count_all()
        return self._health.picture()

    def _assemble(self) -> None:
        """Build the parts, each knowing only those before it."""
        config, manifest = self.config, self._bundle.manifest
        self._notifier = Notifier.from_environment()
        self._model_thread = model_thread(self._runtime)
        self._disk, self._snapshot_disk = Disk("disk", ALERTS_WAIT_S), Disk("snapshots", SNAPSHOTS_WAIT_S)
        status = node_status_topic(config.node.name)
        self._transport = PahoTransport(
            self._broker,
            self._receive,
            on_state=self._note_connection,
            subscriptions=[Subscription(WAVE_FILTER)],
            will=Will(status, _status("offline")),
            birth=lambda: _status("online"),
        )
        self._outgoing = Outgoing(self._stores.alerts, self._disk, self._transport, self._clock, self.metrics)
        self._factory = StreamFactory(config.streams, manifest, config.node.name, self._runtime.name, self._policy)
        self._registry = Registry(config.streams.max_streams, config.streams.silent_after_s, self._factory.make)
        self._pipeline = Pipeline(
            self._registry, self._runtime, self._model_thread, self._outgoing, self._clock, self.metrics,
            config.model.max_batch,
        )  # fmt: skip
        self._pipeline.publish_scores = config.publish.scores
        self._keeper = Keeper(
            self._registry,
            self._runtime,
            self._model_thread,
            self._stores.snapshots,
            self._snapshot_disk,
            self._clock,
            self.metrics,
            self._pipeline.wake,
        )
        self._streams = StreamKeeper(
            self._registry, self._factory, self._runtime, self._model_thread, self._keeper, self._outgoing, self._clock,
            self.metrics,
        )  # fmt: skip
        self._dead: asyncio.Queue[bytes] = asyncio.Queue(maxsize=1000)
        self._intake = Intake(
            self._registry, self._clock, self.metrics, config.streams.max_payload_bytes, self._pipeline.wake,
            self._streams.evict, self._bury,
        )  # fmt: skip
        self._health = HealthReporter(
            config.node.name, self._runtime, self._registry, self._streams, self._outgoing, self._transport,
            self._clock, self._notifier, self._pipeline.states, self._disk_problems,
        )  # fmt: skip

    def _jobs(self) -> dict[str, Coroutine[Any, Any, object]]:
        jobs: dict[str, Coroutine[Any, Any, object]] = {
            "transport": self._transport.run(),
            "pipeline": self._pipeline.run(),
            "outbox": self._outgoing.run(),
            "streams": self._streams.run(self._pipeline.wake),
            "snapshots": self._keeper.run(self.config.snapshot.interval_s),
            "dead letters": self._publish_dead_letters(),
            "health": self._health.run(),
        }
        interval_s = watchdog_interval_s()
        if interval_s is not None:
            moved = progress_of(lambda: self._pipeline.batches, lambda: self._pipeline.busy)
            jobs["watchdog"] = Watchdog(self._notifier, interval_s, moved).run()
        return jobs

    def _receive(self, message: Message) -> None:
        """Pass a message on; while shutting down it stays with the broker, which sends it again to our successor."""
        if not self._draining:
            self._intake.receive(message)

    async def _restore(self) -> int:
        self._factory.remember(await self._disk.call(self._stores.alerts.open_conditions))
        snapshots = await self._keeper.restore(self.config.streams.evict_after_s)
        return await self._streams.restore(snapshots, self._keeper.model_hash)

    async def _drain(self) -> None:
        """Score what has come, save every stream, deliver what waits, say goodbye: as far as the deadline allows."""
        self._draining, self._streams.listening = True, False
        loop = asyncio.get_running_loop()
        deadline_s = loop.time() + DRAIN_DEADLINE_S
        self._pipeline.wake()
        await _until(lambda: not self._pipeline.busy, deadline_s)
        await self._keeper.save_changed(SAVE_DEADLINE_S)
        if self._transport.state is ConnectionState.CONNECTED:
            await _until(lambda: self._outgoing.settled, deadline_s)
        with contextlib.suppress(TransportError, asyncio.TimeoutError):
            goodbye = self._transport.publish(
                node_status_topic(self.config.node.name), _status("stopped"), 1, retain=True
            )
            await asyncio.wait_for(goodbye, max(0.5, deadline_s - loop.time()))

    def _close(self) -> None:
        self._model_thread.close()
        self._disk.close()
        self._snapshot_disk.close()
        self._stores.close()

    def _bury(self, report: bytes) -> None:
        with contextlib.suppress(asyncio.QueueFull):
            self._dead.put_nowait(report)

    async def _publish_dead_letters(self) -> None:
        while True:
            await self._outgoing.publish(dead_topic(self.config.node.name), await self._dead.get())

    def _note_connection(self, state: ConnectionState) -> None:
        connected = state is ConnectionState.CONNECTED
        self.metrics.connected.set(connected)
        self._streams.note_connection(connected)
        if connected:
            self._connections += 1
            self.metrics.reconnects.inc(self._connections > 1)
            self._outgoing.retell()
        self._health.connection_changed()

    def _disk_problems(self) -> list[str]:
        return [*self._stores.problems, *self._keeper.problems()]

    def _start_endpoint(self) -> HttpEndpoint | None:
        http = self.config.http
        if not http.enabled:
            return None
        endpoint = HttpEndpoint(http.host, http.port, self._health.health, self.metrics.render, CONTENT_TYPE)
        endpoint.start()
        log.info("http_endpoint", host=http.host, port=endpoint.port)
        return endpoint

    def _spawn(self, name: str, job: Coroutine[Any, Any, object]) -> asyncio.Task[object]:
        return asyncio.create_task(job, name=name)


def handle_signals(node: Node, reload: Any) -> None:
    """Let SIGTERM and SIGINT stop the node and SIGHUP reload it; call from its loop."""
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, node.stop)
    loop.add_signal_handler(signal.SIGHUP, reload)


async def _until(holds: Callable[[], bool], deadline_s: float) -> None:
    """Wait until something holds or the loop's clock reaches the deadline."""
    while not holds() and asyncio.get_running_loop().time() < deadline_s:  # noqa: ASYNC110 - a few looks, at the end only
        await asyncio.sleep(DRAIN_POLL_S)


async def _cancel(tasks: list[asyncio.Task[object]]) -> None:
    """Cancel tasks until all have ended: one that loses a cancellation is told again, and does not hold up the end."""
    pending = set(tasks)
    while pending:
        for task in pending:
            task.cancel()
        _, pending = await asyncio.wait(pending, timeout=CANCEL_AGAIN_S)


def _status(state: str) -> bytes:
    return msgspec.json.encode({"v": 1, "state": state, "version": __version__})
