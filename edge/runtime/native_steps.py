"""Steps of the native kernel in a thread that never needs the interpreter: begun, and finished later, without waiting.

A thread that computes outside the interpreter lock must have it back after each step, and under load waits for it as
long as the step took. This one takes pointers out of a pipe and puts them into another (kernels/steps.c).
"""

from __future__ import annotations

import os
import select
import struct
import threading
from collections import deque
from collections.abc import Sequence
from types import ModuleType
from typing import Any, NamedTuple

from edge.runtime.base import Float32Array

NOTHING = bytes(struct.calcsize("P"))
"""A null pointer, as it goes through a pipe."""


class _Step(NamedTuple):
    slots: Sequence[int]
    logits: Float32Array


class StepThread:
    """Begins steps and says which are finished, in the order they were begun. Belongs to one thread of Python."""

    def __init__(self, module: ModuleType, model: Any) -> None:
        """module and model: of the build that computes."""
        self._collect, self._model = module.collect, model
        requests, self._requests = os.pipe()
        self._replies, self._done = os.pipe()
        os.set_blocking(self._replies, False)
        self._poll = select.poll()
        self._poll.register(self._replies, select.POLLIN)
        self._under_way: deque[_Step] = deque()
        self._finished: list[Float32Array] = []
        self._thread = threading.Thread(
            target=_serve, args=(module, requests, self._done), name="native-steps", daemon=True
        )
        self._thread.start()

    def fileno(self) -> int:
        """Return the descriptor that is readable when a step is finished."""
        return self._replies

    def begin(self, rows: Float32Array, slots: Sequence[int], frames: Float32Array, logits: Float32Array) -> None:
        """Begin a step on rows of states; nobody may touch those rows, nor the other arrays, until it is finished."""
        self._model.begin(self._requests, rows, slots, frames, logits)
        self._under_way.append(_Step(slots, logits))

    def finished(self) -> Sequence[Float32Array]:
        """Return the logits of the steps that were finished since this was last asked, in the order they were begun."""
        self._take_finished()
        finished, self._finished = self._finished, []
        return finished

    def settle(self) -> None:
        """Wait until no step is under way; what they gave is for `finished` to return, and `fileno` stays readable."""
        if not self._under_way:
            return
        while self._under_way:
            self._poll.poll()
            self._take_finished()
        os.write(self._done, NOTHING)  # so that whoever watches the descriptor comes for what was taken from it

    def wait_for(self, slot: int) -> None:
        """Wait until no step that is under way has to do with a slot."""
        if any(slot in step.slots for step in self._under_way):
            self.settle()

    def close(self) -> None:
        """Wait for what is under way and end the thread."""
        self.settle()
        os.close(self._requests)
        self._thread.join()
        os.close(self._done)
        os.close(self._replies)

    def _take_finished(self) -> None:
        for _ in range(self._collect(self._replies)):
            self._finished.append(self._under_way.popleft().logits)


def _serve(module: ModuleType, requests: int, done: int) -> None:
    """In the thread: compute what comes until nobody is left who could send more."""
    try:
        module.serve(requests, done)
    finally:
        os.close(requests)
