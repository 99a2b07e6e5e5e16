"""The test stand: a mosquitto and the daemon, each a process of its own, on this machine."""

from __future__ import annotations

import contextlib
import getpass
import json
import os
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from edge.bench import BenchError, packets
from edge.bench.connection import dial
from edge.demo.broker import MOSQUITTO, LocalBroker, mosquitto_path
from edge.demo.child import running_child
from edge.stream.topics import node_health_topic

NODE = "bench"
START_TIMEOUT_S = 60.0
STOP_TIMEOUT_S = 15.0
WAIT_S = 0.05
SPARE_STREAMS = 10
LOG_TAIL = 400

BROKER_LINES = (
    "allow_anonymous true",
    "set_tcp_nodelay true",
    "max_inflight_messages 0",
    "max_queued_messages 0",
    "log_type error",
)
"""As a gateway would run it: mosquitto's defaults hold back a subscriber of thousands of topics."""


@dataclass(frozen=True)
class Model:
    """What the daemon is to run."""

    bundle: Path
    runtime: str


@contextlib.contextmanager
def running_broker() -> Iterator[LocalBroker]:
    """Run a mosquitto for a while; raises BenchError where there is none."""
    with (
        tempfile.TemporaryDirectory(prefix="ecg-edge-bench-") as folder,
        LocalBroker(partial(_gateway_command, Path(folder))) as broker,
    ):
        yield broker


def _gateway_command(folder: Path, port: int) -> tuple[str, list[str]]:
    program = mosquitto_path()
    if program is None:
        raise BenchError("the daemon is measured with mosquitto, which is not installed: `apt install mosquitto`")
    lines = [f"listener {port} 127.0.0.1", *BROKER_LINES]
    if os.geteuid() == 0:
        lines.append(f"user {getpass.getuser()}")  # else it becomes a user who may not read this folder
    configuration = folder / "mosquitto.conf"
    configuration.write_text("\n".join(lines) + "\n")
    return MOSQUITTO, [program, "-c", str(configuration)]


class Daemon:
    """`ecg-edge run` as a child of ours, with a state of its own; a context manager.

    `ready_s` is how long it took from the start of the process until it said how it is: from then on it listens.
    """

    def __init__(self, broker: LocalBroker, model: Model, streams: int) -> None:
        self._broker, self._model, self._streams = broker, model, streams
        self._folder = tempfile.TemporaryDirectory(prefix="ecg-edge-bench-")
        self._log = Path(self._folder.name, "log")
        self._running = contextlib.ExitStack()
        self.ready_s = 0.0

    def __enter__(self) -> Daemon:
        configuration = Path(self._folder.name, "bench.toml")
        configuration.write_text(self._configuration())
        command = [sys.executable, "-m", "edge", "run", "--config", str(configuration)]
        watcher = dial(self._broker.host, self._broker.port, "bench-watcher")
        with contextlib.closing(watcher.sock), self._log.open("wb") as log, contextlib.ExitStack() as starting:
            starting.callback(self._folder.cleanup)
            watcher.sock.sendall(packets.subscribe(node_health_topic(NODE), 0))
            self.begun_s = time.monotonic()
            self._process = starting.enter_context(running_child(command, STOP_TIMEOUT_S, log, log))
            while next(watcher.messages(WAIT_S), None) is None:  # its birth comes before it has subscribed
                self._check_start()
            self._running = starting.pop_all()
        self.ready_s = time.monotonic() - self.begun_s
        return self

    @property
    def pid(self) -> int:
        """The number of its process."""
        return self._process.pid

    def check(self) -> None:
        """Raise BenchError when it has died."""
        if self._process.poll() is not None:
            raise BenchError(f"the daemon ended with status {self._process.returncode}: {self._last_words()}")

    def __exit__(self, *_: object) -> None:
        self._running.close()

    def _check_start(self) -> None:
        if self._process.poll() is not None or time.monotonic() - self.begun_s > START_TIMEOUT_S:
            raise BenchError(f"the daemon did not start: {self._last_words()}")

    def _last_words(self) -> str:
        return " ".join(self._log.read_text(errors="replace")[-LOG_TAIL:].split()) or "it said nothing"

    def _configuration(self) -> str:
        tables: dict[str, dict[str, object]] = {
            "node": {"name": NODE, "state_dir": str(Path(self._folder.name, "state")), "log_level": "warning"},
            "broker": {"host": self._broker.host, "port": self._broker.port},
            "model": {"bundle": str(self._model.bundle.resolve()), "runtime": self._model.runtime},
            "streams": {"max_streams": self._streams + SPARE_STREAMS},
            "http": {"enabled": False},
        }
        lines = []
        for name, table in tables.items():
            lines.append(f"[{name}]")
            lines += [f"{key} = {json.dumps(value)}" for key, value in table.items()]
        return "\n".join(lines) + "\n"
