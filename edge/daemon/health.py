"""How the daemon is: one picture for the health topic, the HTTP endpoint and systemd's status line."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import msgspec

from edge import __version__
from edge.clock import Clock
from edge.daemon.http import Health
from edge.daemon.model_states import ModelStates
from edge.daemon.outgoing import Outgoing
from edge.daemon.registry import Registry
from edge.daemon.streams import StreamKeeper
from edge.daemon.systemd import Notifier
from edge.daemon.transport import ConnectionState, Transport
from edge.runtime.base import Runtime
from edge.stream.topics import node_health_topic

HEALTH_PERIOD_S = 30.0
STATUS_PERIOD_S = 5.0
MAX_LAG_S = 10.0
"""Above this the daemon calls itself unhealthy: it no longer keeps up."""


class HealthReporter:
    """Draws the picture and tells it."""

    def __init__(
        self, node: str, runtime: Runtime, registry: Registry, streams: StreamKeeper, outgoing: Outgoing,
        transport: Transport, clock: Clock, notifier: Notifier, states: ModelStates,
        disk_problems: Callable[[], list[str]],
    ) -> None:  # fmt: skip
        self._node, self._runtime, self._registry, self._streams = node, runtime, registry, streams
        self._outgoing, self._transport, self._clock, self._notifier = outgoing, transport, clock, notifier
        self._states, self._disk_problems = states, disk_problems
        self._started_s = clock.monotonic_s()
        self._published_s: float | None = None
        self._told_healthy: bool | None = None
        self._news = asyncio.Event()

    def picture(self) -> dict[str, Any]:
        """Return the state of things as plain data."""
        now_s, manifest, totals = self._clock.monotonic_s(), self._runtime.bundle.manifest, self._streams.totals
        waiting = [since_s for stream in self._registry if (since_s := stream.waiting_since_s) is not None]
        lag_s = round(now_s - min(waiting, default=now_s), 3)
        return {
            "v": 1,
            "t": self._clock.utc_ns(),
            "version": __version__,
            "uptime_s": round(now_s - self._started_s, 1),
            "problems": self._problems(lag_s),
            "connected": self._transport.state is ConnectionState.CONNECTED,
            "streams": len(self._registry),
            "lag_s": lag_s,
            "chunks": self._streams.chunks,
            "dropped_samples": self._streams.dropped_samples,
            "dropped_messages": self._transport.dropped,
            "gaps": {"bridged": totals.bridged_gaps, "lost": totals.lost_gaps},
            "outbox_pending": self._outgoing.pending,
            "runtime": self._runtime.name,
            "model": {"name": manifest.name, "version": manifest.version, "hash": manifest.model_hash},
            "state": self._states.picture(),
        }

    def health(self) -> Health:
        """Return whether all is well: connected, keeping up, alerts stored and leaving. `problems` says why not."""
        picture = self.picture()
        return Health(not picture["problems"], picture)

    def connection_changed(self) -> None:
        """Tell the picture anew: who watches should not wait for it."""
        self._published_s = None
        self._news.set()

    async def run(self) -> None:
        """Publish the picture every HEALTH_PERIOD_S and when it becomes well or unwell, until cancelled.

        Keeps the status line fresh, too.
        """
        while True:
            self._news.clear()
            picture = self.picture()
            healthy = not picture["problems"]
            if (self._is_due() or healthy is not self._told_healthy) and picture["connected"]:
                self._published_s, self._told_healthy = self._clock.monotonic_s(), healthy
                await self._outgoing.publish(node_health_topic(self._node), msgspec.json.encode(picture), retain=True)
            self._notifier.status(_in_one_line(picture))
            # No wait_for: up to Python 3.11 it swallows a cancellation that comes together with the news.
            timer = asyncio.get_running_loop().call_later(STATUS_PERIOD_S, self._news.set)
            try:
                await self._news.wait()
            finally:
                timer.cancel()

    def _is_due(self) -> bool:
        return self._published_s is None or self._clock.monotonic_s() - self._published_s >= HEALTH_PERIOD_S

    def status_line(self) -> str:
        """Return one line for people."""
        return _in_one_line(self.picture())

    def _problems(self, lag_s: float) -> list[str]:
        problems = []
        if self._transport.state is not ConnectionState.CONNECTED:
            problems.append(f"no broker ({self._transport.problem or 'connecting'})")
        if lag_s >= MAX_LAG_S:
            problems.append(f"samples have waited for {lag_s:.0f} s to be scored")
        return problems + self._outgoing.problems() + self._disk_problems()


def _in_one_line(picture: dict[str, Any]) -> str:
    state = "; ".join(picture["problems"]) or "connected"
    return f"{picture['streams']} streams, {picture['outbox_pending']} alerts waiting, {state}"


def progress_of(batches: Callable[[], int], busy: Callable[[], bool]) -> Callable[[], bool]:
    """Return what a watchdog asks: has a batch been scored since the last question, or was there nothing to do?"""
    last = -1

    def moved() -> bool:
        nonlocal last
        now = batches()
        moving, last = now != last or not busy(), now
        return moving

    return moved
