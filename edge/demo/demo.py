"""The demo's run: broker, daemon and devices up, a live view, everything put away, a summary."""

from __future__ import annotations

import contextlib
import re
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.live import Live

from edge.demo.broker import LocalBroker
from edge.demo.child import running_child
from edge.demo.sources import Source
from edge.demo.view import render
from edge.demo.watcher import Picture, Watcher
from edge.errors import EcgEdgeError
from edge.replay.session import Plan, play_devices

REFRESH_S = 0.25
PLAIN_PERIOD_S = 5.0
DAEMON_START_TIMEOUT_S = 60.0
DAEMON_STOP_TIMEOUT_S = 15.0
SETTLE_S = 1.5
"""After the last chunk: its score may still be on its way."""
PICTURE_WIDTH, PICTURE_HEIGHT = 112, 26

CONFIGURATION = """
[node]
name = "demo"
state_dir = "{state}"
log_level = "warning"
[broker]
host = "{host}"
port = {port}
protocol = "{protocol}"
[http]
enabled = false
[streams]
silent_after_s = 3600.0
evict_after_s = 7200.0
"""


class DemoError(EcgEdgeError):
    """A part of the demo died."""


@dataclass(frozen=True)
class Demo:
    """What the demo shows and for how long."""

    source: Source
    seconds: float
    speed: float
    bundle: Path | None = None

    def run(self, console: Console) -> Picture:
        """Run it to its end or until Ctrl-C; return the last picture. Raises DemoError when a part dies."""
        stop = threading.Event()
        with (
            _interrupts(stop),
            tempfile.TemporaryDirectory(prefix="ecg-edge-demo-") as folder,
            LocalBroker() as broker,
            self._daemon(Path(folder), broker) as daemon,
        ):
            sources = dict.fromkeys(self.source.playlists, self.source.description)
            with Watcher(broker.host, broker.port, sources) as watcher, ThreadPoolExecutor(1) as threads:
                check_parts = partial(_check, broker, daemon)
                _await_daemon(watcher, check_parts, stop)
                plan = Plan(broker.host, broker.port, speed=self.speed)
                devices = threads.submit(play_devices, plan, self.source.playlists, stop, watcher.note_sent)
                try:
                    self._watch(console, watcher, partial(check_parts, devices), stop)
                finally:
                    stop.set()  # whatever ended the view: the devices must not play on
                _raise_failure(devices)
                time.sleep(SETTLE_S)
                return watcher.picture()

    def _watch(self, console: Console, watcher: Watcher, check: Callable[[], None], stop: threading.Event) -> None:
        """Show what happens until the time is up; `check` raises when a part has died."""
        begun_s = time.monotonic()
        with _shown(console) as show:
            while (elapsed_s := time.monotonic() - begun_s) < self.seconds and not stop.is_set():
                check()
                show(self, watcher.picture(), elapsed_s)
                stop.wait(REFRESH_S)

    @contextlib.contextmanager
    def _daemon(self, folder: Path, broker: LocalBroker) -> Iterator[subprocess.Popen[bytes]]:
        """Run the real daemon as a child, with a configuration and a state of its own."""
        text = CONFIGURATION.format(
            state=folder / "state", host=broker.host, port=broker.port, protocol=broker.protocol
        )
        if self.bundle is not None:
            text += f'[model]\nbundle = "{self.bundle.resolve()}"\n'
        configuration = folder / "demo.toml"
        configuration.write_text(text)
        command = [sys.executable, "-m", "edge", "run", "--config", str(configuration)]
        with running_child(command, DAEMON_STOP_TIMEOUT_S, errors=None) as daemon:
            yield daemon


def _await_daemon(watcher: Watcher, check_parts: Callable[[], None], stop: threading.Event) -> None:
    """Return when the daemon listens; raises DemoError when a part dies before, or it takes too long."""
    deadline_s = time.monotonic() + DAEMON_START_TIMEOUT_S
    while not watcher.daemon_online.wait(REFRESH_S) and not stop.is_set():
        check_parts()
        if time.monotonic() > deadline_s:
            raise DemoError(f"the daemon did not start within {DAEMON_START_TIMEOUT_S:g} s; run `ecg-edge doctor`")


def _check(broker: LocalBroker, daemon: subprocess.Popen[bytes], devices: Future[Any] | None = None) -> None:
    """Raise DemoError when a part has died, the broker first: without it the others fail, too."""
    if (status := broker.poll()) is not None:
        raise DemoError(f"the broker ({broker.name}) ended with status {status}")
    if (status := daemon.poll()) is not None:
        raise DemoError(f"the daemon ended with status {status}; run `ecg-edge doctor`")
    if devices is not None and devices.done():
        _raise_failure(devices)


def _raise_failure(devices: Future[Any]) -> None:
    try:
        devices.result()
    except EcgEdgeError as error:
        raise DemoError(f"the devices stopped: {error}") from None


def summary(picture: Picture, source: Source) -> dict[str, Any]:
    """Return what was seen as plain data."""
    return {
        "streams": len(picture.streams),
        "chunks": picture.chunks,
        "scores": picture.scores,
        "alerts": picture.alerts,
        "latency_ms": picture.latency_ms,
        "runtime": picture.runtime,
        "model": picture.model,
        "source": {"kind": source.kind, "description": source.description},
    }


def save_picture(path: Path, demo: Demo, picture: Picture) -> None:
    """Write the last frame as an SVG."""
    with Path("/dev/null").open("w") as nowhere:
        console = Console(record=True, width=PICTURE_WIDTH, height=PICTURE_HEIGHT, file=nowhere, force_terminal=True)
        console.print(
            render(picture, demo.source.description, demo.seconds, demo.seconds, PICTURE_WIDTH, PICTURE_HEIGHT)
        )
    path.write_text(_without_web_fonts(console.export_svg(title="ecg-edge demo")))


def _without_web_fonts(svg: str) -> str:
    """Drop the fonts an SVG would fetch: a picture should look the same without a network."""
    return re.sub(r"@font-face\s*{[^}]*}", "", svg)


Show = Callable[[Demo, Picture, float], None]


@contextlib.contextmanager
def _shown(console: Console) -> Iterator[Show]:
    """Give a function that shows a picture: live on a terminal, a line now and then elsewhere."""
    if not console.is_terminal:
        yield _plain(console)
        return
    with Live(console=console, auto_refresh=False, screen=True) as live:
        yield lambda demo, picture, elapsed_s: live.update(
            render(picture, demo.source.description, elapsed_s, demo.seconds, console.width, console.height),
            refresh=True,
        )


def _plain(console: Console) -> Show:
    told_s = float("-inf")

    def show(demo: Demo, picture: Picture, elapsed_s: float) -> None:
        nonlocal told_s
        if elapsed_s - told_s >= PLAIN_PERIOD_S:
            told_s = elapsed_s
            opened = {stream.device: list(stream.open_alerts) for stream in picture.streams if stream.open_alerts}
            console.print(f"{elapsed_s:.0f} s: {picture.chunks} chunks, {picture.scores} scores, {_words(opened)}")

    return show


def _words(opened: Mapping[str, list[str]]) -> str:
    if not opened:
        return "no open alerts"
    return "open: " + "; ".join(f"{device} {', '.join(codes)}" for device, codes in opened.items())


@contextlib.contextmanager
def _interrupts(stop: threading.Event) -> Iterator[None]:
    """Let Ctrl-C, SIGTERM and a closed terminal end the demo in order; what is ignored (nohup) stays so."""
    numbers = [n for n in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP) if signal.getsignal(n) != signal.SIG_IGN]
    before = {number: signal.signal(number, lambda *_: stop.set()) for number in numbers}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
