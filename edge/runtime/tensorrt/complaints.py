"""What TensorRT says is wrong. It keeps the address of the first logger it meets for good, so a process has but one."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from functools import cache
from types import ModuleType
from typing import Any

KEPT = 32


class Complaints:
    """The errors that TensorRT has reported since `forget`; `logger` is what its objects are given."""

    def __init__(self, trt: ModuleType) -> None:
        self._said: deque[str] = deque(maxlen=KEPT)
        self.logger = _logger(trt, self._said.append)

    def forget(self) -> None:
        """Begin anew, before something that may fail: what was said before is not about it."""
        self._said.clear()

    @property
    def last(self) -> str:
        """The newest, in one line: it is the one that ended what was tried."""
        return " ".join(self._said[-1].split()) if self._said else "TensorRT does not say why"


@cache
def complaints_of(trt: ModuleType) -> Complaints:
    """Return the one of a TensorRT in this process; it is never given up."""
    return Complaints(trt)


def _logger(trt: ModuleType, keep: Callable[[str], None]) -> Any:
    base: Any = trt.ILogger
    worst_to_keep = int(trt.ILogger.Severity.ERROR)

    class Logger(base):  # type: ignore[misc]  # its base is known only once TensorRT is imported
        def __init__(self) -> None:
            base.__init__(self)  # the bindings insist on it, by this form

        def log(self, severity: Any, message: str) -> None:
            if int(severity) <= worst_to_keep:
                keep(message)

    return Logger()
