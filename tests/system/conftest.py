"""Fixtures of the system tests: a broker, the daemon as a process, devices and somebody who watches."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.bundles import alarming_bundle
from tests.daemon import Daemon
from tests.mosquitto import Mosquitto, find_program
from tests.ward import Devices, Ward, devices_on, ward_on


@dataclass
class Site:
    """All that is running."""

    broker: Mosquitto
    daemon: Daemon
    devices: Devices
    ward: Ward


OpenSite = Callable[..., Site]


@pytest.fixture
def open_site(tmp_path: Path) -> Iterator[OpenSite]:
    """Start everything: `open_site(streams={"silent_after_s": 1.0})` says what the daemon's configuration has else.

    rules: the broker's access list.
    """
    with ExitStack() as running:

        def start(rules: Sequence[str] = (), **settings: Mapping[str, Any]) -> Site:
            return running.enter_context(_site(tmp_path, settings, rules))

        yield start


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    """A site that the tests of a module share: each has devices of its own."""
    with _site(tmp_path_factory.mktemp("site"), {}) as opened:
        yield opened


@pytest.fixture
def alarms(tmp_path: Path) -> dict[str, Any]:
    """Settings of a model that raises an alert of every class as soon as a stream is ready."""
    return {"bundle": str(alarming_bundle(tmp_path / "alarming").path)}


@contextmanager
def _site(directory: Path, settings: Mapping[str, Mapping[str, Any]], rules: Sequence[str] = ()) -> Iterator[Site]:
    if find_program("mosquitto") is None:
        reason = "mosquitto is not installed (Debian: apt install mosquitto)"
        if os.environ.get("CI"):
            pytest.fail(reason)
        pytest.skip(reason)
    broker = Mosquitto(directory / "broker", rules=rules)
    daemon = Daemon(directory, broker, settings)
    with ExitStack() as running:
        running.callback(broker.kill)
        broker.start()
        ward, devices = running.enter_context(ward_on(broker)), running.enter_context(devices_on(broker))
        running.callback(daemon.kill)
        yield Site(broker, daemon.start(), devices, ward)
