"""A real mosquitto on a free loopback port, whose sessions survive a restart."""

from __future__ import annotations

import getpass
import os
import random
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

START_TIMEOUT_S = 10.0
HOST = "127.0.0.1"
PORTS = range(20_000, 32_768)


@dataclass(frozen=True)
class ServerTls:
    """Files of the broker's TLS listener; client_ca makes a client certificate a condition."""

    cert: Path
    key: Path
    client_ca: Path | None = None


def find_program(name: str) -> str | None:
    """Return the path of a program of mosquitto; Debian keeps the broker in /usr/sbin, outside a user's PATH."""
    return shutil.which(name) or shutil.which(name, path="/usr/sbin:/usr/local/sbin")


class Mosquitto:
    """One broker process in a directory of its own; a restart keeps port, sessions and retained messages.

    Its database is written every second and at `stop`, so what came right before a `kill` may be lost.
    """

    def __init__(
        self, directory: Path, users: dict[str, str] | None = None, tls: ServerTls | None = None,
        rules: Sequence[str] = (),
    ) -> None:  # fmt: skip
        """Configure without starting.

        users: name → password; without them anybody may connect. rules: lines of an access list; without them
        everything is allowed.
        """
        self.host = HOST
        self.port = _free_port()
        self._directory = directory
        self._process: subprocess.Popen[bytes] | None = None
        self._log_path = directory / "mosquitto.log"
        self._rules_path = directory / "rules"
        directory.mkdir(parents=True, exist_ok=True)
        self._configuration = directory / "mosquitto.conf"
        self._configuration.write_text("\n".join(self._lines(users or {}, tls, rules)) + "\n")

    @property
    def log(self) -> str:
        """What the broker has written so far."""
        return self._log_path.read_text(errors="replace") if self._log_path.exists() else ""

    @property
    def pid(self) -> int:
        """The process number, for signals."""
        assert self._process is not None, "the broker is not running"
        return self._process.pid

    def start(self) -> None:
        """Start and return when the port answers."""
        program = find_program("mosquitto")
        assert program is not None
        with self._log_path.open("ab") as log:
            self._process = subprocess.Popen(
                [program, "-v", "-c", str(self._configuration)], stdout=log, stderr=subprocess.STDOUT
            )
        self._await_port()

    def stop(self) -> None:
        """End it as a service manager would: sessions and retained messages are saved."""
        self._end(signal.SIGTERM)

    def kill(self) -> None:
        """End it as a power cut would."""
        self._end(signal.SIGKILL)

    def restart(self) -> None:
        """Stop and start."""
        self.stop()
        self.start()

    def permit(self, rules: Sequence[str]) -> None:
        """Put an access list in the place of the one it was configured with."""
        self._rules_path.write_text("\n".join(rules) + "\n")
        self._rules_path.chmod(0o600)
        if self._process is not None:
            os.kill(self.pid, signal.SIGHUP)

    def freeze(self) -> None:
        """Let connections stand while nothing is read or answered any more."""
        os.kill(self.pid, signal.SIGSTOP)

    def thaw(self) -> None:
        """Go on after `freeze`."""
        os.kill(self.pid, signal.SIGCONT)

    def _end(self, how: signal.Signals) -> None:
        if self._process is not None:
            self._process.send_signal(how)
            self._process.send_signal(signal.SIGCONT)  # a frozen process would not hear of it
            self._process.wait(START_TIMEOUT_S)
            self._process = None

    def _await_port(self) -> None:
        deadline = time.monotonic() + START_TIMEOUT_S
        while True:
            assert self._process is not None
            assert self._process.poll() is None, f"mosquitto ended at its start:\n{self.log}"
            try:
                socket.create_connection((self.host, self.port), timeout=1).close()
            except OSError:
                assert time.monotonic() < deadline, f"mosquitto does not answer:\n{self.log}"
                time.sleep(0.005)
            else:
                return

    def _lines(self, users: dict[str, str], tls: ServerTls | None, rules: Sequence[str]) -> list[str]:
        lines = [
            f"listener {self.port} {self.host}",
            f"allow_anonymous {'false' if users else 'true'}",
            "persistence true",
            f"persistence_location {self._directory}/",
            "autosave_interval 1",
            "max_queued_messages 100000",
            "set_tcp_nodelay true",
        ]
        if os.geteuid() == 0:
            lines.append(f"user {getpass.getuser()}")  # else it becomes a user who may not write here
        if rules:
            self.permit(rules)
            lines.append(f"acl_file {self._rules_path}")
        if users:
            lines.append(f"password_file {self._password_file(users)}")
        if tls is not None:
            lines += [f"certfile {tls.cert}", f"keyfile {tls.key}"]
        if tls is not None and tls.client_ca is not None:
            lines += [f"cafile {tls.client_ca}", "require_certificate true"]
        return lines

    def _password_file(self, users: dict[str, str]) -> Path:
        path = self._directory / "passwords"
        path.touch(mode=0o600)
        program = find_program("mosquitto_passwd")
        assert program is not None
        for name, password in users.items():
            subprocess.run([program, "-b", str(path), name, password], check=True, capture_output=True)
        return path


def _free_port() -> int:
    """Find a port below those that connections are given: a client of a stopped broker could get its port."""
    for port in random.SystemRandom().sample(PORTS, 100):
        with socket.socket() as sock:
            try:
                sock.bind((HOST, port))
            except OSError:
                continue
        return port
    raise AssertionError(f"no free port in {PORTS}")
