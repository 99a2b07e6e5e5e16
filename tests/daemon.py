"""The real daemon as a process: configured, started, stopped, killed, and looked at from outside."""

from __future__ import annotations

import contextlib
import json
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from prometheus_client.parser import text_string_to_metric_families

from tests.mosquitto import Mosquitto

NODE = "node-1"
START_TIMEOUT_S = 60.0
STOP_TIMEOUT_S = 15.0
POLL_S = 0.02

Settings = Mapping[str, Mapping[str, Any]]


def until(predicate: Callable[[], object], what: str, timeout_s: float = 40.0) -> None:
    """Return as soon as the predicate holds; fails after timeout_s, naming what was awaited."""
    deadline = time.monotonic() + timeout_s
    while not predicate():
        assert time.monotonic() < deadline, f"{what} did not come true within {timeout_s:g} s"
        time.sleep(POLL_S)


@dataclass
class Daemon:
    """`ecg-edge run` with a state directory of its own; a restart goes on with it."""

    directory: Path
    broker: Mosquitto
    settings: Settings = field(default_factory=dict)
    process: subprocess.Popen[bytes] | None = None
    _log_begin: int = 0

    @property
    def config_path(self) -> Path:
        return self.directory / "ecg-edge.toml"

    @property
    def log_path(self) -> Path:
        return self.directory / "ecg-edge.log"

    @property
    def log(self) -> list[dict[str, Any]]:
        """What this process has logged since its start; a line that it is still writing comes the next time."""
        with self.log_path.open("rb") as file:
            file.seek(self._log_begin)
            whole = [line for line in file.read().splitlines(keepends=True) if line.endswith(b"\n")]
        return [json.loads(line) for line in whole if line.startswith(b"{")]

    def configure(self, **sections: Mapping[str, Any]) -> None:
        """Write the configuration: quick to reconnect, unhurried with overload, with what this test says otherwise."""
        base: dict[str, dict[str, Any]] = {
            "node": {"name": NODE, "state_dir": str(self.directory / "state"), "log_format": "json"},
            "broker": {"port": self.broker.port, "reconnect_min_s": 0.05, "reconnect_max_s": 0.5},
            "streams": {"backlog_s": 3600.0, "reorder_wait_s": 5.0},
            "snapshot": {"interval_s": 0.1},
            "http": {"port": 0},
        }
        for section, values in [*self.settings.items(), *sections.items()]:
            base[section] = {**base.get(section, {}), **values}
        self.config_path.write_text(_toml(base))

    def start(self) -> Daemon:
        """Start and return when it is connected and says that it is well."""
        if not self.config_path.exists():
            self.configure()
        self._log_begin = self.log_path.stat().st_size if self.log_path.exists() else 0
        with self.log_path.open("ab") as log:
            command = [sys.executable, "-m", "edge", "run", "--config", str(self.config_path)]
            self.process = subprocess.Popen(command, stderr=log, stdout=log)
        until(self.is_healthy, "the daemon's start", START_TIMEOUT_S)
        return self

    def stop(self) -> int:
        """End it as a service manager would; return its exit status."""
        return self._end(signal.SIGTERM)

    def kill(self) -> None:
        """End it as a power cut would."""
        self._end(signal.SIGKILL)

    def reload(self) -> None:
        """Let it read its configuration again, and wait until it has."""
        assert self.process is not None
        seen = len(self.events("reloaded", "reload_refused"))
        self.process.send_signal(signal.SIGHUP)
        until(lambda: len(self.events("reloaded", "reload_refused")) > seen, "the reload")

    def events(self, *names: str) -> list[dict[str, Any]]:
        """Return the log lines of these events."""
        return [line for line in self.log if line["event"] in names]

    def is_running(self) -> bool:
        return self.process is not None and self.process.poll() is None

    def is_healthy(self) -> bool:
        """Tell whether /healthz answers 200; fails when the process has ended."""
        assert self.is_running(), f"the daemon ended:\n{self.log_path.read_text()[-4000:]}"
        return bool(self.events("http_endpoint")) and self.health()[0] == 200

    def health(self) -> tuple[int, dict[str, Any]]:
        """Return the status and the body of /healthz."""
        status, body = self._get("/healthz")
        return status, json.loads(body)

    def metric(self, name: str, **labels: str) -> float:
        """Return one sample of /metrics, 0 while it has not been counted."""
        for family in text_string_to_metric_families(self._get("/metrics")[1].decode()):
            for sample in family.samples:
                if sample.name == f"ecg_edge_{name}" and sample.labels == labels:
                    return float(sample.value)
        return 0.0

    def memory_mib(self) -> float:
        """Return the memory that the process holds now."""
        assert self.process is not None
        status = Path(f"/proc/{self.process.pid}/status").read_text()
        return int(status.split("VmRSS:")[1].split()[0]) / 1024

    def _get(self, path: str) -> tuple[int, bytes]:
        port = self.events("http_endpoint")[0]["port"]
        for _ in range(3):  # as any prober would: one reset connection on a busy machine says nothing
            with contextlib.suppress(ConnectionResetError):
                return self._ask(port, path)
        return self._ask(port, path)

    def _ask(self, port: int, path: str) -> tuple[int, bytes]:
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=10) as answer:
                return answer.status, answer.read()
        except urllib.error.HTTPError as error:
            with error:
                return error.code, error.read()
        except urllib.error.URLError as error:
            raise error.reason if isinstance(error.reason, OSError) else error from None

    def _end(self, how: signal.Signals) -> int:
        if self.process is None:
            return 0
        self.process.send_signal(how)
        status = self.process.wait(STOP_TIMEOUT_S)
        self.process = None
        return status


def _toml(tables: Mapping[str, Any], prefix: str = "") -> str:
    """Write nested tables of plain values; JSON's strings, numbers and truth values are TOML's too."""
    lines = []
    for name, table in tables.items():
        lines.append(f"[{prefix}{name}]")
        lines += [f"{key} = {json.dumps(value)}" for key, value in table.items() if not isinstance(value, Mapping)]
        nested = {key: value for key, value in table.items() if isinstance(value, Mapping)}
        lines.append(_toml(nested, f"{prefix}{name}."))
    return "\n".join(lines) + "\n"
