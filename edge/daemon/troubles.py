"""What keeps alerts from leaving: said once when it begins and once when it is over."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, suppress

import structlog

from edge.clock import Clock
from edge.daemon.metrics import Metrics
from edge.errors import MessageRefusedError, StorageError

RETRY_S = 0.5
DEVICE_LEVEL, CODE_LEVEL = 2, 4
"""Levels of a topic `ecg/v1/<device>/alert/<code>` that do not belong to its kind."""

log = structlog.get_logger(__name__)


class StoreTrouble:
    """What of a store fails now, by step. Who uses it tries a step that fails until it works."""

    def __init__(self, begins: str, ends: str, clock: Clock) -> None:
        """Give the names of the two lines of the log."""
        self._begins, self._ends, self._clock = begins, ends, clock
        self._again_s: dict[str, float] = {}
        """When each step that fails may be tried again."""
        self.problem: StorageError | None = None
        """Why, while anything fails. Any thread may ask."""

    def due(self, step: str) -> bool:
        """Return whether a step may be tried."""
        return self._again_s.get(step, 0.0) <= self._clock.monotonic_s()

    def fails(self, step: str) -> bool:
        """Return whether a step failed when it was tried last."""
        return step in self._again_s

    @contextmanager
    def trying(self, step: str) -> Iterator[None]:
        """Take note of whether a step works; its StorageError goes no further."""
        with suppress(StorageError), self.noting(step):
            yield

    @contextmanager
    def noting(self, step: str) -> Iterator[None]:
        """Take note of whether a step works."""
        try:
            yield
        except StorageError as error:
            self._fails(step, error)
            raise
        else:
            self.over(step)

    def _fails(self, step: str, error: StorageError) -> None:
        if not self._again_s:
            log.error(self._begins, problem=str(error))
        self._again_s[step] = self._clock.monotonic_s() + RETRY_S
        self.problem = error

    def over(self, step: str) -> None:
        """A step works, or need not be tried any more."""
        if self._again_s.pop(step, None) is not None and not self._again_s:
            self.problem = None
            log.info(self._ends)


class Refusals:
    """Which kinds of topic the broker refuses messages on, and why."""

    def __init__(self, metrics: Metrics) -> None:
        self._metrics = metrics
        self._reasons: dict[str, str] = {}
        """Of topics with a message that was refused and has not been taken since."""
        self._standing: dict[tuple[str, str], int] = {}
        """Kinds and reasons with the number of such topics."""

    def note(self, error: MessageRefusedError) -> None:
        """A message was refused: count it, and tell of it unless the same is known of its kind."""
        kind = kind_of(error.topic)
        self._metrics.refused_alerts.inc(kind, error.reason)
        if self._reasons.get(error.topic) == error.reason:
            return
        self.over(error.topic)
        self._reasons[error.topic] = error.reason
        key = kind, error.reason
        if key not in self._standing:
            log.error("alerts_refused", topics=kind, reason=error.reason, problem=str(error))
        self._standing[key] = self._standing.get(key, 0) + 1

    def over(self, topic: str) -> None:
        """A message of a topic was taken, or none waits there any more."""
        reason = self._reasons.pop(topic, None)
        if reason is None:
            return
        key = kind_of(topic), reason
        self._standing[key] -= 1
        if not self._standing[key]:
            del self._standing[key]
            log.info("alerts_refused_no_more", topics=key[0], reason=reason)

    @property
    def problem(self) -> str | None:
        """What is refused, in words; None when nothing is. Any thread may ask."""
        standing = tuple(self._standing)
        return "; ".join(f"the broker refuses {kind}: {reason}" for kind, reason in standing) or None


def kind_of(topic: str) -> str:
    """Return the topic as access rules have it: with + for the device and for the code."""
    levels = topic.split("/")
    return "/".join("+" if number in (DEVICE_LEVEL, CODE_LEVEL) else level for number, level in enumerate(levels))
