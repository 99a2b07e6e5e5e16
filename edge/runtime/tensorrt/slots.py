"""The states of many streams in GPU memory: one row per slot, a table that doubles when it is full."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from edge.errors import SignalError
from edge.runtime.base import Float32Array, State, initial_state
from edge.runtime.manifest import StateTensor
from edge.runtime.slots import SlotStore
from edge.runtime.tensorrt.device import CudaDevice

INITIAL_SLOTS = 64


class StateRows:
    """How the carried tensors of a stream lie side by side in one row of floats."""

    def __init__(self, tensors: Sequence[StateTensor]) -> None:
        self.shapes = {tensor.name: tuple(tensor.shape) for tensor in tensors}
        self.widths = {name: math.prod(shape) for name, shape in self.shapes.items()}
        ends = list(itertools.accumulate(self.widths.values(), initial=0))
        self.starts = dict(zip(self.widths, ends, strict=False))
        self.columns = ends[-1]
        self.initial = self.pack({name: rows[0] for name, rows in initial_state(tensors, 1).items()})

    def pack(self, state: Mapping[str, Float32Array]) -> Float32Array:
        """Return a state as one row; raises SignalError when names or shapes differ."""
        if set(state) != set(self.shapes):
            raise SignalError(f"a saved state has tensors {sorted(state)}, this model carries {sorted(self.shapes)}")
        for name, tensor in state.items():
            if tensor.shape != self.shapes[name]:
                raise SignalError(f"saved state {name} has shape {tensor.shape}, not {self.shapes[name]}")
        return np.concatenate([np.asarray(state[name], dtype=np.float32).ravel() for name in self.shapes])

    def unpack(self, row: Float32Array) -> State:
        """Return copies of the tensors of a row."""
        return {
            name: row[self.starts[name] : self.starts[name] + width].reshape(self.shapes[name]).copy()
            for name, width in self.widths.items()
        }


class CudaSlots:
    """Keeps a row per slot on the GPU. A freed slot is used again, always from the initial state.

    Every method needs the device's context. Raises SignalError when a slot is not open, is named twice, or when a state
    does not fit.
    """

    def __init__(self, device: CudaDevice, rows: StateRows) -> None:
        self._device, self._rows = device, rows
        self._open = SlotStore(())  # without tensors it only keeps account of which slots are open
        self._capacity = INITIAL_SLOTS
        self._table = device.allocate(self._capacity * rows.columns)
        self._initial = device.upload(rows.initial)
        self._row = device.pinned(rows.columns, np.float32)

    @property
    def address(self) -> int:
        """Where the table lies; another address after it has grown."""
        return int(self._table)

    def open(self) -> int:
        """Reserve a slot in its initial state."""
        slot = self._open.open()
        if slot >= self._capacity:
            self._grow()
        self._clear(slot)
        return slot

    def close(self, slot: int) -> None:
        """Give a slot back."""
        self._open.close(slot)

    def reset(self, slot: int) -> None:
        """Put a slot back into its initial state."""
        self._open.reset(slot)
        self._clear(slot)

    def require(self, slots: Sequence[int]) -> None:
        """Raise SignalError unless these are distinct open slots."""
        self._open.gather(slots)

    def save(self, slot: int) -> State:
        """Return a copy of one slot's state: name → (*shape)."""
        self.require([slot])
        self._device.copy_out(self._row, self._address(slot))
        self._device.wait()
        return self._rows.unpack(self._row)

    def load(self, slot: int, state: Mapping[str, Float32Array]) -> None:
        """Put back what `save` returned, whole or not at all."""
        self.require([slot])
        self._row[:] = self._rows.pack(state)
        self._device.copy_in(self._address(slot), self._row)
        self._device.wait()  # the next call may write into the pinned row

    def _address(self, slot: int) -> int:
        return self.address + 4 * slot * self._rows.columns

    def _clear(self, slot: int) -> None:
        self._device.copy(self._address(slot), int(self._initial), self._rows.columns)

    def _grow(self) -> None:
        larger = self._device.allocate(2 * self._capacity * self._rows.columns)
        self._device.copy(int(larger), self.address, self._capacity * self._rows.columns)
        self._device.wait()
        smaller: Any = self._table
        self._table, self._capacity = larger, 2 * self._capacity
        smaller.free()
