"""The states of many streams in a few contiguous arrays: one row per slot, arrays that double when they are full."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from edge.errors import SignalError
from edge.runtime.base import Float32Array, State, initial_state
from edge.runtime.manifest import StateTensor

INITIAL_SLOTS = 8


class SlotStore:
    """Keeps float32 state tensors by slot. A freed slot is used again, always from the initial state.

    Raises SignalError when a slot is not open, is named twice, or when a state does not fit.
    """

    def __init__(self, tensors: Sequence[StateTensor], capacity: int = INITIAL_SLOTS) -> None:
        self._start = initial_state(tensors, 1)
        self._arrays = self._allocate(capacity)
        self._capacity = capacity
        self._free = list(range(capacity - 1, -1, -1))  # popped from the end: low numbers first
        self._open: set[int] = set()

    def __len__(self) -> int:
        return len(self._open)

    def open(self) -> int:
        """Reserve a slot in its initial state."""
        if not self._free:
            self._grow()
        slot = self._free.pop()
        self._open.add(slot)
        self._clear(slot)
        return slot

    def close(self, slot: int) -> None:
        """Give a slot back."""
        self.require([slot])
        self._open.remove(slot)
        self._free.append(slot)

    def reset(self, slot: int) -> None:
        """Put a slot back into its initial state."""
        self.require([slot])
        self._clear(slot)

    def gather(self, slots: Sequence[int]) -> State:
        """Return copies of the rows of distinct slots: name → (slots, *shape)."""
        self.require(slots)
        return {name: array[list(slots)] for name, array in self._arrays.items()}

    def scatter(self, slots: Sequence[int], rows: Mapping[str, Float32Array]) -> None:
        """Put rows back that were gathered from the same slots and advanced."""
        for name, array in self._arrays.items():
            array[list(slots)] = rows[name]

    def save(self, slot: int) -> State:
        """Return a copy of one slot's state: name → (*shape)."""
        self.require([slot])
        return {name: array[slot].copy() for name, array in self._arrays.items()}

    def load(self, slot: int, state: Mapping[str, Float32Array]) -> None:
        """Put back what `save` returned, whole or not at all."""
        self.require([slot])
        if set(state) != set(self._arrays):
            raise SignalError(f"a saved state has tensors {sorted(state)}, this model carries {sorted(self._arrays)}")
        for name, row in state.items():
            if row.shape != self._start[name].shape[1:]:
                raise SignalError(f"saved state {name} has shape {row.shape}, not {self._start[name].shape[1:]}")
        self._clear(slot)  # also what lies between the tensors, where there is such a thing
        for name, row in state.items():
            self._arrays[name][slot] = row

    def require(self, slots: Sequence[int]) -> None:
        """Raise SignalError unless all slots are open and none is named twice."""
        closed = [slot for slot in slots if slot not in self._open]
        if closed:
            raise SignalError(f"slot {closed[0]} is not open")
        if len(set(slots)) != len(slots):
            raise SignalError(f"a slot is named twice in one step: {list(slots)}")

    def _allocate(self, capacity: int) -> State:
        """Return arrays with a row for every slot: name → (capacity, *shape)."""
        return {name: np.repeat(row, capacity, axis=0) for name, row in self._start.items()}

    def _clear(self, slot: int) -> None:
        for name, array in self._arrays.items():
            array[slot] = self._start[name][0]

    def _grow(self) -> None:
        before, first_new = self._arrays, self._capacity
        self._capacity *= 2
        self._arrays = self._allocate(self._capacity)
        for name, array in before.items():
            self._arrays[name][:first_new] = array
        self._free = list(range(self._capacity - 1, first_new - 1, -1))
