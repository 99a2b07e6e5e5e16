"""Telling systemd how the daemon is: ready, stopping, reloading, alive. The protocol is sd_notify(3)'s.

Without $NOTIFY_SOCKET, as in a terminal, everything here does nothing.
"""

from __future__ import annotations

import asyncio
import os
import socket
import time
from collections.abc import Awaitable, Callable, Mapping

import structlog

SOCKET_VARIABLE = "NOTIFY_SOCKET"
WATCHDOG_VARIABLE = "WATCHDOG_USEC"
WATCHDOG_PID_VARIABLE = "WATCHDOG_PID"
PINGS_PER_TIMEOUT = 2.5
MAX_STATUS_CHARACTERS = 200

log = structlog.get_logger(__name__)


class Notifier:
    """Sends state changes to the service manager; a manager that does not listen is no reason to fail."""

    def __init__(self, address: str | None) -> None:
        self._address = _socket_address(address) if address else None
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) if self._address else None
        if self._socket is not None:
            self._socket.setblocking(False)  # a full queue must not stop the pipeline

    @classmethod
    def from_environment(cls) -> Notifier:
        """Return a notifier for the socket systemd named, or one that does nothing."""
        return cls(os.environ.get(SOCKET_VARIABLE))

    @property
    def enabled(self) -> bool:
        """Whether there is a service manager to tell."""
        return self._socket is not None

    def ready(self, status: str) -> None:
        """Start-up, or a reload, has ended."""
        self._send("READY=1", _status_line(status))

    def status(self, status: str) -> None:
        """Say in one line what is going on; `systemctl status` shows it."""
        self._send(_status_line(status))

    def reloading(self) -> None:
        """A reload begins; `ready` ends it."""
        self._send("RELOADING=1", f"MONOTONIC_USEC={time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000}")

    def stopping(self, status: str = "stopping") -> None:
        """The daemon has begun to stop."""
        self._send("STOPPING=1", _status_line(status))

    def watchdog(self) -> None:
        """The daemon is alive; systemd restarts it when this stays away."""
        self._send("WATCHDOG=1")

    def close(self) -> None:
        """Release the socket."""
        if self._socket is not None:
            self._socket.close()
            self._socket = None

    def _send(self, *lines: str) -> None:
        if self._socket is None or self._address is None:
            return
        try:
            self._socket.sendto("\n".join(lines).encode(), self._address)
        except OSError as error:
            log.debug("notify_failed", error=str(error))


class Watchdog:
    """Pings the service manager, but only while the pipeline moves.

    `progress` is asked before every ping and says whether the pipeline has moved, or had nothing to do, since it was
    asked last. A loop that merely runs is not enough: a stuck inference thread must lead to a restart.
    """

    def __init__(
        self,
        notifier: Notifier,
        interval_s: float,
        progress: Callable[[], bool],
        sleep: Callable[[float], Awaitable[object]] = asyncio.sleep,
    ) -> None:
        self._notifier = notifier
        self._interval_s = interval_s
        self._progress = progress
        self._sleep = sleep

    async def run(self) -> None:
        """Ping until cancelled."""
        stuck = False
        while True:
            moving = self._progress()
            if moving:
                self._notifier.watchdog()
            elif not stuck:
                log.error("pipeline_stuck", action="watchdog pings withheld")
            stuck = not moving
            await self._sleep(self._interval_s)


def watchdog_interval_s(environment: Mapping[str, str] = os.environ) -> float | None:
    """Return how often to ping, None when systemd expects no pings of this process."""
    timeout_us = environment.get(WATCHDOG_VARIABLE, "")
    meant_for = environment.get(WATCHDOG_PID_VARIABLE, str(os.getpid()))
    if not timeout_us.isdecimal() or int(timeout_us) == 0 or meant_for != str(os.getpid()):
        return None
    return int(timeout_us) / 1e6 / PINGS_PER_TIMEOUT


def _socket_address(address: str) -> str:
    """Return the socket's address; a leading @ stands for the abstract namespace."""
    return "\0" + address[1:] if address.startswith("@") else address


def _status_line(status: str) -> str:
    """Return a STATUS= line; a line break in it would begin another assignment."""
    return f"STATUS={' '.join(status.split())[:MAX_STATUS_CHARACTERS]}"
