"""When class alerts are raised, repeated, held back and cleared."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property

from edge.alerts.events import Priority
from edge.alerts.technical import TechnicalCode
from edge.errors import ConfigError
from edge.runtime.manifest import OperatingPoint

SILENT_CLASSES = frozenset({"NORM"})
"""Scored, but no reason to call anybody."""

CLASS_PRIORITIES: Mapping[str, Priority] = {
    "MI": Priority.HIGH,
    "STTC": Priority.MEDIUM,
    "CD": Priority.MEDIUM,
    "HYP": Priority.LOW,
}
"""A judgement, not a standard: infarction can't wait, ST-T changes and conduction disturbance may be acute,
hypertrophy is chronic. Other classes are MEDIUM."""


@dataclass(frozen=True)
class AlertPolicy:
    """How scores become alerts, for every stream of one model. Times are seconds of signal."""

    classes: tuple[str, ...]
    """All classes of the model, in the order of its probabilities."""
    points: Mapping[str, OperatingPoint]
    """Raise at or above `on`, clear below `off`, either only after `dwell_s` of it. One per class."""
    hop_s: float
    window_s: float
    refractory_s: float = 30.0
    """After a clear the same condition is not raised for so long."""
    update_every_s: float = 30.0
    update_change: float = 0.15
    """A probability that moved by this much is published at once, but not within `update_pause_s` of the last event."""
    update_pause_s: float = 5.0
    max_raises_per_hour: int = 20
    """Per stream and class; what exceeds it is counted and waits until the limit allows it."""
    expires_s: float = 120.0
    max_bad_share: float = 0.2
    """Alerts freeze while more of the window's hops than this are bad: the score still rests on them."""
    priorities: Mapping[str, Priority] = field(default_factory=lambda: dict(CLASS_PRIORITIES))

    def __post_init__(self) -> None:
        """Raise ConfigError when two conditions would share a topic."""
        codes = [*map(class_code, self.alerting), *(code.value for code in TechnicalCode)]
        shared = sorted({code for code in codes if codes.count(code) > 1})
        if shared:
            raise ConfigError("the model's classes", tuple(f"{code} names two alert conditions" for code in shared))

    @cached_property
    def alerting(self) -> tuple[str, ...]:
        """The classes that can raise an alert."""
        return tuple(name for name in self.classes if name not in SILENT_CLASSES)

    @cached_property
    def raise_at(self) -> tuple[float, ...]:
        """From which probability on each of the classes may be raised; infinite for the silent ones."""
        return tuple(self.points[name].on if name in self.alerting else math.inf for name in self.classes)

    @cached_property
    def window_hops(self) -> int:
        """Hops of a window."""
        return max(1, round(self.window_s / self.hop_s))

    def dwell_hops(self, class_name: str) -> int:
        """Return how many hops in a row a change must last: each stands for `hop_s` of signal, one at least."""
        hops = self.points[class_name].dwell_s / self.hop_s
        return max(1, -int(-(hops - 1e-9) // 1))

    def priority(self, class_name: str) -> Priority:
        """Return the priority of a class's alert."""
        return self.priorities.get(class_name, Priority.MEDIUM)


def class_code(class_name: str) -> str:
    """Return the identifier of a class in topics and codes: small letters, others than [a-z0-9_-] as '-'."""
    return re.sub(r"[^a-z0-9_-]", "-", class_name.lower())
