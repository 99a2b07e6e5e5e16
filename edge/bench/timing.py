"""Timing things that are compared: they take turns, and the least of many short runs counts.

Other work on the machine makes a run longer, never shorter, so the least is what the code costs; and what comes in
turns is disturbed alike.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np

from edge.runtime.base import Runtime
from edge.runtime.tensorrt.targets import NAME as TENSORRT

TURN_RUNS = 5  # the first finds the others' data in the cache
TURN_S = 0.05
LEAST_TURNS = 2

Call = Callable[[], object]
Clock = Callable[[], float]


@dataclass(frozen=True)
class Timed:
    """A call and the clock it is timed by.

    The CPU time of the calling thread is what a core is asked for. What works elsewhere needs `time.perf_counter`.
    """

    call: Call
    clock: Clock = time.thread_time

    def seconds(self) -> float:
        """Return how long one call takes; infinity when the clock stood still, which on a busy machine it may."""
        begun_s = self.clock()
        self.call()
        elapsed_s = self.clock() - begun_s
        return elapsed_s if elapsed_s > 0 else float("inf")


def least_seconds(seconds: float, cases: Mapping[str, Timed]) -> dict[str, float]:
    """Return the least time of each case, all taking turns for about so many seconds, two turns at least."""
    least = {name: float("inf") for name in cases}
    deadline_s, turns = time.perf_counter() + seconds, 0
    while turns < LEAST_TURNS or time.perf_counter() < deadline_s:
        for name, case in cases.items():
            least[name] = min(least[name], _turn(case))
        turns += 1
    return least


def _turn(case: Timed) -> float:
    end_s = time.perf_counter() + TURN_S
    least = case.seconds()
    for _ in range(TURN_RUNS - 1):
        if time.perf_counter() > end_s:
            break
        least = min(least, case.seconds())
    return least


class Steps:
    """Calls that step a runtime's streams by noise; a context manager that gives the slots back."""

    def __init__(self, runtime: Runtime, most: int) -> None:
        self._runtime = runtime
        self._clock = time.thread_time if works_on_a_core(runtime) else time.perf_counter
        self._slots = [runtime.open_slot() for _ in range(most)]

    def __enter__(self) -> Steps:
        return self

    def __exit__(self, *_: object) -> None:
        for slot in self._slots:
            self._runtime.close_slot(slot)

    def of(self, batch: int, samples: int) -> Timed:
        """Return a call that steps so many streams by so many samples."""
        slots, frames = self._slots[:batch], noise(batch, samples, len(self._runtime.bundle.manifest.leads))
        return Timed(lambda: self._runtime.step(slots, frames), self._clock)


def works_on_a_core(runtime: Runtime) -> bool:
    """Return whether the thread that calls a runtime does its work, and not a GPU."""
    return not runtime.name.startswith(TENSORRT)


def noise(batch: int, samples: int, leads: int) -> np.ndarray[tuple[int, int, int], np.dtype[np.float32]]:
    """Return model input of the size that normalised ECG has: (batch, samples, leads)."""
    return np.random.default_rng(0).standard_normal((batch, samples, leads), dtype=np.float32)
