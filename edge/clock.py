"""Time as the daemon sees it, passed in so that tests can hold it still."""

from __future__ import annotations

import time
from typing import Protocol


class Clock(Protocol):
    """Two kinds of time: one that never jumps, one that people read."""

    def monotonic_s(self) -> float:
        """Seconds that only go forward; for durations and deadlines."""

    def utc_ns(self) -> int:
        """Nanoseconds since 1970 in UTC; for stamps in messages."""


class SystemClock:
    """The machine's own clocks."""

    def monotonic_s(self) -> float:
        return time.monotonic()

    def utc_ns(self) -> int:
        return time.time_ns()
