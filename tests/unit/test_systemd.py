"""What the daemon tells systemd, read from a real datagram socket in systemd's place."""

from __future__ import annotations

import asyncio
import os
import re
import socket
from collections.abc import Iterator
from pathlib import Path
from uuid import uuid4

import pytest

from edge.daemon.systemd import Notifier, Watchdog, watchdog_interval_s

DEADLINE_S = 5.0


@pytest.fixture(params=["path", "abstract"])
def manager(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[socket.socket]:
    """A socket that stands for systemd's, at a path or in the abstract namespace, named in the environment."""
    address = str(tmp_path / "notify") if request.param == "path" else f"@ecg-edge-test-{uuid4().hex}"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listening:
        listening.bind(address.replace("@", "\0", 1) if address.startswith("@") else address)
        listening.settimeout(DEADLINE_S)
        monkeypatch.setenv("NOTIFY_SOCKET", address)
        yield listening


@pytest.fixture
def notifier(manager: socket.socket) -> Iterator[Notifier]:
    made = Notifier.from_environment()
    yield made
    made.close()


def heard(manager: socket.socket) -> list[str]:
    return manager.recv(4096).decode().split("\n")


def test_a_life_from_ready_to_stopping(manager: socket.socket, notifier: Notifier) -> None:
    notifier.ready("0 streams")
    notifier.status("3 streams, connected")
    notifier.stopping()
    assert heard(manager) == ["READY=1", "STATUS=0 streams"]
    assert heard(manager) == ["STATUS=3 streams, connected"]
    assert heard(manager) == ["STOPPING=1", "STATUS=stopping"]


def test_a_reload_states_its_time_on_the_monotonic_clock(manager: socket.socket, notifier: Notifier) -> None:
    notifier.reloading()
    first, second = heard(manager)
    assert first == "RELOADING=1"
    assert re.fullmatch(r"MONOTONIC_USEC=[1-9]\d*", second)


def test_a_status_cannot_smuggle_in_another_assignment(manager: socket.socket, notifier: Notifier) -> None:
    notifier.status("a\nMAINPID=1\r\nx" + "y" * 1000)
    (line,) = heard(manager)
    assert line.startswith("STATUS=a MAINPID=1 x")
    assert len(line) < 250


def test_without_a_manager_nothing_happens(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("NOTIFY_SOCKET", raising=False)
    silent = Notifier.from_environment()
    assert not silent.enabled
    silent.ready("x")
    silent.close()
    gone = Notifier(str(tmp_path / "nobody"))
    gone.ready("nobody listens")
    gone.close()
    gone.watchdog()


def test_a_manager_that_does_not_read_stops_nobody(manager: socket.socket, notifier: Notifier) -> None:
    for _ in range(10_000):
        notifier.watchdog()
    assert heard(manager) == ["WATCHDOG=1"]


async def test_the_watchdog_is_fed_only_while_the_pipeline_moves(manager: socket.socket, notifier: Notifier) -> None:
    moves = iter([True, True, False, False, True])
    slept: list[float] = []

    async def sleep(seconds: float) -> None:
        slept.append(seconds)
        await asyncio.sleep(0)
        if len(slept) == 5:
            raise asyncio.CancelledError

    with pytest.raises(asyncio.CancelledError):
        await Watchdog(notifier, 4.0, lambda: next(moves), sleep).run()
    assert slept == [4.0] * 5
    manager.setblocking(False)
    for _ in range(3):
        assert heard(manager) == ["WATCHDOG=1"]
    with pytest.raises(BlockingIOError):
        manager.recv(1)


@pytest.mark.parametrize(
    ("environment", "interval_s"),
    [
        ({"WATCHDOG_USEC": "30000000"}, 12.0),
        ({"WATCHDOG_USEC": "30000000", "WATCHDOG_PID": str(os.getpid())}, 12.0),
        ({"WATCHDOG_USEC": "30000000", "WATCHDOG_PID": "1"}, None),
        ({"WATCHDOG_USEC": "0"}, None),
        ({"WATCHDOG_USEC": "soon"}, None),
        ({}, None),
    ],
)
def test_the_interval_follows_what_systemd_asks(environment: dict[str, str], interval_s: float | None) -> None:
    assert watchdog_interval_s(environment) == interval_s
