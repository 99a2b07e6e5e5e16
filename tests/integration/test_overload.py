"""A model that is too slow: the oldest samples go, are counted and told of, and what comes after is scored again."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from edge.daemon import node as node_module
from edge.daemon.config import Config
from edge.daemon.health import MAX_LAG_S
from edge.daemon.node import Node
from edge.runtime.base import Float32Array, Runtime
from tests.daemon import NODE
from tests.ecg import chunks_of, patient
from tests.helpers import eventually
from tests.mosquitto import Mosquitto
from tests.ward import devices_on, ward_on

BACKLOG_S = 5
SECONDS = 40
HASTE = 20.0


class HastyClock:
    """A clock on which durations pass faster, so that half a minute of calm needs no half minute of test."""

    def monotonic_s(self) -> float:
        return time.monotonic() * HASTE

    def utc_ns(self) -> int:
        return time.time_ns()


class HeldRuntime:
    """A runtime that can be told to stand still."""

    def __init__(self, inner: Runtime) -> None:
        self._inner = inner
        self.go = threading.Event()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)

    def step(self, slots: Sequence[int], frames: Float32Array) -> Float32Array:
        assert self.go.wait(20)
        return self._inner.step(slots, frames)


@pytest.fixture
def held(monkeypatch: pytest.MonkeyPatch) -> list[HeldRuntime]:
    """The runtimes that nodes open; each stands still until its `go` is set."""
    opened: list[HeldRuntime] = []
    open_runtime: Callable[..., Runtime] = node_module.open_or_fall_back

    def open_held(*arguments: Any) -> HeldRuntime:
        opened.append(HeldRuntime(open_runtime(*arguments)))
        return opened[-1]

    monkeypatch.setattr(node_module, "open_or_fall_back", open_held)
    return opened


@asynccontextmanager
async def running(directory: Path, broker: Mosquitto) -> AsyncIterator[Node]:
    """Run a node in this process."""
    config = Config.model_validate(
        {
            "node": {"name": NODE, "state_dir": str(directory / "state")},
            "broker": {"port": broker.port},
            "streams": {"backlog_s": BACKLOG_S, "silent_after_s": 3000.0},
            "http": {"enabled": False},
        }
    )
    node = Node(config, HastyClock())
    task = asyncio.create_task(node.run())
    try:
        await eventually(lambda: task.done() or node.summary()["connected"], 20, "the connection")
        yield node
    finally:
        node.stop()
        await task


async def test_overload_drops_the_oldest_samples_says_so_and_passes(
    tmp_path: Path, broker: Mosquitto, held: list[HeldRuntime]
) -> None:
    samples = patient(SECONDS)
    chunks = chunks_of(samples)
    with ward_on(broker) as ward, devices_on(broker) as devices:
        async with running(tmp_path, broker) as node:
            (runtime,) = held
            devices.send("bed", chunks[:1])
            await eventually(lambda: node.summary()["chunks"] == 1)
            devices.send("bed", chunks[1:20])
            await eventually(lambda: node.summary()["dropped_samples"] == (19 - BACKLOG_S) * 100, 20, "the drop")
            await eventually(lambda: ward.alerts("bed", "overload"), 20, "the alert")
            await eventually(lambda: node.summary()["lag_s"] > MAX_LAG_S, 20, "the lag that makes /healthz answer 503")
            runtime.go.set()
            await eventually(lambda: len(ward.scores("bed")) == 1 + BACKLOG_S, 20, "the backlog's scores")
            for number, chunk in enumerate(chunks[20:], 1):
                devices.send("bed", [chunk])
                await eventually(lambda n=number: len(ward.scores("bed")) == 1 + BACKLOG_S + n, 20, "the next score")
            await eventually(lambda: len({e.state for e in ward.alerts("bed", "overload")} & {"cleared"}), 20, "calm")
    indices = [score["i"] // 100 for score in ward.scores("bed")]
    assert indices == [0, *range(20 - BACKLOG_S, SECONDS)]  # the oldest went, the newest stayed
    states = [score["state"] for score in ward.scores("bed")][1:]
    assert states == ["warming"] * 9 + ["ready"] * (len(states) - 9)
    assert len({event.id for event in ward.alerts("bed", "overload")}) == 1
    assert b'ecg_edge_resets_total{reason="overload"}' in node.metrics.render()
