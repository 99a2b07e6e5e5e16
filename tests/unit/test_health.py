"""The health reporter: news is told at once, and nothing keeps it from ending."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace

import msgspec
import pytest

from edge.clock import SystemClock
from edge.daemon.health import MAX_LAG_S, HealthReporter, progress_of
from edge.daemon.metrics import Metrics
from edge.daemon.model_states import ModelStates
from edge.daemon.node import _cancel
from edge.daemon.systemd import Notifier
from edge.daemon.transport import ConnectionState
from edge.runtime.bundle import load_bundle
from edge.stream.assembler import AssemblerCounters
from tests.helpers import eventually


class Published:
    """Stands in for the outbox: keeps what is published."""

    pending = 0

    def __init__(self):
        self.messages = []
        self.found = []

    def problems(self):
        return self.found

    async def publish(self, topic, payload, retain=False):
        self.messages.append((topic, msgspec.json.decode(payload), retain))


@pytest.fixture
def transport():
    return SimpleNamespace(state=ConnectionState.CONNECTED, problem=None, dropped=0)


@pytest.fixture
def published():
    return Published()


@pytest.fixture
def reporter(transport, published):
    runtime = SimpleNamespace(bundle=load_bundle(), name="onnxruntime")
    streams = SimpleNamespace(totals=AssemblerCounters(), chunks=0, dropped_samples=0)
    states = ModelStates([], None, Metrics())
    return HealthReporter("n1", runtime, [], streams, published, transport, SystemClock(), Notifier(None), states, list)


async def until_published(published, count):
    await eventually(lambda: len(published.messages) >= count, what=f"{count} pictures")


async def test_health_is_told_at_the_start_and_again_when_the_connection_changes(reporter, published):
    task = asyncio.create_task(reporter.run())
    await until_published(published, 1)
    reporter.connection_changed()
    await until_published(published, 2)
    await _cancel([task])
    topic, picture, retain = published.messages[-1]
    assert (topic, retain, picture["connected"]) == ("ecg/v1/edge/n1/health", True, True)
    assert picture["state"] == {"resets": 0, "tensors": {}}


async def test_alerts_that_do_not_leave_make_it_unwell_and_that_is_told_at_once(reporter, published, monkeypatch):
    monkeypatch.setattr("edge.daemon.health.STATUS_PERIOD_S", 0.01)
    task = asyncio.create_task(reporter.run())
    await until_published(published, 1)
    assert reporter.health().healthy
    published.found = ["disk is full"]
    health = reporter.health()
    assert (health.healthy, health.details["problems"]) == (False, ["disk is full"])
    await until_published(published, 2)
    published.found = []
    await until_published(published, 3)
    await _cancel([task])
    assert [picture["problems"] for _, picture, _ in published.messages] == [[], ["disk is full"], []]


def test_without_a_broker_the_reason_is_among_the_problems(reporter, transport):
    transport.state, transport.problem = ConnectionState.WAITING, "no broker listens"
    assert reporter.health().details["problems"] == ["no broker (no broker listens)"]
    assert not reporter.health().healthy
    assert reporter.status_line() == "0 streams, 0 alerts waiting, no broker (no broker listens)"


@pytest.mark.parametrize("news_first", [True, False])
async def test_news_that_comes_with_the_end_does_not_prevent_it(reporter, published, news_first):
    task = asyncio.create_task(reporter.run())
    await until_published(published, 1)
    await asyncio.sleep(0)
    if news_first:
        reporter.connection_changed()
    task.cancel()
    if not news_first:
        reporter.connection_changed()
    done, _ = await asyncio.wait([task], timeout=1.0)
    assert task in done


async def test_a_task_that_loses_a_cancellation_is_told_again(monkeypatch):
    monkeypatch.setattr("edge.daemon.node.CANCEL_AGAIN_S", 0.01)

    async def deaf():
        try:
            await asyncio.sleep(60)
        except asyncio.CancelledError:
            await asyncio.sleep(60)

    task = asyncio.create_task(deaf())
    await asyncio.sleep(0)
    await asyncio.wait_for(_cancel([task]), 5.0)
    assert task.cancelled()


def test_progress_is_a_new_batch_or_nothing_to_do():
    state = {"batches": 0, "busy": True}
    moved = progress_of(lambda: state["batches"], lambda: state["busy"])
    assert moved()
    assert not moved()
    state["batches"] = 1
    assert moved()
    state["busy"] = False
    assert moved()


def test_samples_that_wait_too_long_make_it_unwell(reporter):
    since_s = SystemClock().monotonic_s() - MAX_LAG_S
    reporter._registry = [SimpleNamespace(waiting_since_s=since_s), SimpleNamespace(waiting_since_s=None)]
    assert reporter.health().details["problems"] == ["samples have waited for 10 s to be scored"]


async def test_while_nothing_changes_health_is_told_again_and_again(reporter, published, monkeypatch):
    monkeypatch.setattr("edge.daemon.health.STATUS_PERIOD_S", 0.01)
    monkeypatch.setattr("edge.daemon.health.HEALTH_PERIOD_S", 0.02)
    task = asyncio.create_task(reporter.run())
    await until_published(published, 3)
    await _cancel([task])
