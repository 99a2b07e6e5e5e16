"""A broker for the demo or the benchmark alone, on a free loopback port: mosquitto, else amqtt from PyPI for the demo.

amqtt hands retained messages to clients that did not ask for them, so it is good enough for a demo and nothing else.
"""

from __future__ import annotations

import asyncio
import contextlib
import importlib.util
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from types import TracebackType

from edge.demo.child import running_child
from edge.errors import TransportError

HOST = "127.0.0.1"
MOSQUITTO = "mosquitto"
START_TIMEOUT_S = 15.0
STOP_TIMEOUT_S = 5.0
POLL_S = 0.02
SYSTEM_PATH = "/usr/sbin:/usr/local/sbin"  # where Debian keeps it, outside a user's own path


class LocalBroker:
    """A broker as a child process; a context manager, and nothing is left behind.

    command: port → the broker's name and how to start it; by default what the demo takes. Raises TransportError when
    there is none, or it does not start.
    """

    def __init__(self, command: Callable[[int], tuple[str, list[str]]] | None = None) -> None:
        self.host, self.port = HOST, _free_port()
        self.name, self._command = (command or demo_command)(self.port)
        self.protocol = "5" if self.name == MOSQUITTO else "3.1.1"
        self._process: subprocess.Popen[bytes] | None = None
        self._running = contextlib.ExitStack()

    def __enter__(self) -> LocalBroker:
        with contextlib.ExitStack() as starting:
            self._process = starting.enter_context(running_child(self._command, STOP_TIMEOUT_S))
            deadline_s = time.monotonic() + START_TIMEOUT_S
            while not _answers(self.host, self.port):
                if self._process.poll() is not None or time.monotonic() > deadline_s:
                    raise TransportError(f"the broker ({self.name}) did not start; try `apt install mosquitto`")
                time.sleep(POLL_S)
            self._running = starting.pop_all()
        return self

    @property
    def pid(self) -> int:
        """The number of the running process."""
        assert self._process is not None
        return self._process.pid

    def poll(self) -> int | None:
        """Return None while it runs, else the status it ended with."""
        return None if self._process is None else self._process.poll()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._running.close()


def mosquitto_path() -> str | None:
    """Return where mosquitto is installed."""
    return shutil.which(MOSQUITTO) or shutil.which(MOSQUITTO, path=SYSTEM_PATH)


def demo_command(port: int) -> tuple[str, list[str]]:
    """Return the name of the broker to take and how to start it on a port; raises TransportError without one."""
    mosquitto = mosquitto_path()
    if mosquitto is not None:
        return MOSQUITTO, [mosquitto, "-p", str(port)]  # without a configuration it listens on loopback only
    if importlib.util.find_spec("amqtt") is not None:
        return "amqtt", [sys.executable, "-m", "edge.demo.broker", str(port)]
    raise TransportError("the demo needs a broker: `apt install mosquitto`, or pip install 'ecg-edge[demo]'")


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind((HOST, 0))
        return int(probe.getsockname()[1])


def _answers(host: str, port: int) -> bool:
    try:
        socket.create_connection((host, port), timeout=1).close()
    except OSError:
        return False
    return True


async def _serve_embedded(port: int) -> None:
    """Run amqtt until this process is told to end."""
    from amqtt.broker import Broker

    listener = {"type": "tcp", "bind": f"{HOST}:{port}"}
    plugins = {"amqtt.plugins.authentication.AnonymousAuthPlugin": {"allow_anonymous": True}}
    broker = Broker({"listeners": {"default": listener}, "plugins": plugins})
    await broker.start()
    await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(_serve_embedded(int(sys.argv[1])))
