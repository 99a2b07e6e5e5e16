"""A program as a child of ours for a while: nothing is left behind, however this process is told to end."""

from __future__ import annotations

import contextlib
import signal
import subprocess
import threading
from collections.abc import Iterator, Sequence
from types import FrameType
from typing import IO, Any


@contextlib.contextmanager
def running_child(
    command: Sequence[str], stop_timeout_s: float, output: int | IO[bytes] = subprocess.DEVNULL,
    errors: int | IO[bytes] | None = subprocess.DEVNULL,
) -> Iterator[subprocess.Popen[bytes]]:  # fmt: skip
    """Run a program in a session of its own; at the end it is told to stop, and killed after stop_timeout_s.

    errors: where its standard error goes, None for ours. Raises OSError when it cannot be started.
    """
    process: subprocess.Popen[bytes] | None = None
    try:
        with _signals_held_back():
            process = subprocess.Popen(  # noqa: S603 - the callers' programs: this package's, and found ones
                command, stdin=subprocess.DEVNULL, stdout=output, stderr=errors, start_new_session=True
            )
        yield process
    finally:
        if process is not None:
            process.terminate()
            try:
                process.wait(stop_timeout_s)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


@contextlib.contextmanager
def _signals_held_back() -> Iterator[None]:
    """Let SIGINT and SIGTERM wait: one that came while a child is made would leave a child that nobody knows."""
    if threading.current_thread() is not threading.main_thread():  # signals are the main thread's alone
        yield
        return
    came: list[tuple[int, FrameType | None]] = []
    handlers: dict[int, Any] = {}
    try:
        for number in (signal.SIGINT, signal.SIGTERM):
            if callable(signal.getsignal(number)):
                handlers[number] = signal.signal(number, lambda number, frame: came.append((number, frame)))
        yield
    finally:
        for held_back, handler in handlers.items():
            signal.signal(held_back, handler)
    for arrived, frame in came:
        handlers[arrived](arrived, frame)
