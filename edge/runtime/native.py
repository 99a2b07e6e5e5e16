"""The native CPU runtime: a C kernel for one hop, on states that lie in one contiguous row per stream."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from itertools import pairwise
from types import ModuleType
from typing import Any

import numpy as np

from edge.errors import RuntimeUnavailableError
from edge.runtime.base import Float32Array, State, check_frames
from edge.runtime.bundle import Bundle
from edge.runtime.manifest import StateTensor
from edge.runtime.native_build import NAME, native_module
from edge.runtime.native_shape import ordered_weights, shape_of
from edge.runtime.native_steps import StepThread
from edge.runtime.slots import SlotStore
from edge.runtime.weights import read_weights

ALIGNMENT_BYTES = 64  # a cache line, and the widest vector

Place = tuple[int, int, int, int]
"""Where a tensor stands in a stream's row: offset, rows, columns, floats from row to row."""


class NativeRuntime:
    """Runs a bundle's model in the C kernel; see `edge.runtime.base.Runtime` for the contract.

    width: the build to use ("avx512", "avx2", "sse2", "neon", "portable"); by default what ECG_EDGE_NATIVE_WIDTH names,
    else the widest this processor runs. With several threads a step's slots are shared out among them. Raises
    RuntimeUnavailableError when there is no build or it does not know the model, BundleError when the weights cannot be
    read.
    """

    def __init__(self, bundle: Bundle, threads: int = 1, width: str | None = None) -> None:
        width, module = native_module(width)
        self.bundle = bundle
        self.name = f"{NAME}-{width}"
        self._module, self._model = module, _build(module, bundle)
        self._steps: StepThread | None = None
        self._slots = RowStore(bundle.manifest.state, self._model.tensors, self._model.state_floats, self._settle)
        self._threads = threads
        self._pool = ThreadPoolExecutor(threads - 1, thread_name_prefix=NAME) if threads > 1 else None

    def open_slot(self) -> int:
        """Reserve a slot in its initial state and return its number."""
        return self._slots.open()

    def close_slot(self, slot: int) -> None:
        """Give a slot back."""
        self._wait_for(slot)
        self._slots.close(slot)

    def reset_slot(self, slot: int) -> None:
        """Put a slot back into its initial state."""
        self._wait_for(slot)
        self._slots.reset(slot)

    def step(self, slots: Sequence[int], frames: Float32Array) -> Float32Array:
        """Advance distinct slots by frames (slots, samples, leads); return logits (slots, classes).

        Raises SignalError for frames that do not fit and for slots that are not open or named twice.
        """
        frames, logits = self._checked(slots, frames)
        self._settle()
        parts = min(self._threads, len(slots))
        if parts > 1:
            self._step_in_parts(parts, slots, frames, logits)
        else:
            self._model.step(self._slots.rows, slots, frames, logits)
        return logits

    @property
    def can_begin(self) -> bool:
        """Whether steps can be begun without waiting for them: in one thread, and where there are pipes."""
        return self._threads == 1 and hasattr(self._model, "begin")

    def begin(self, slots: Sequence[int], frames: Float32Array) -> None:
        """Begin what `step` does, in a thread of its own, behind what was begun before; raises as `step` does.

        Whoever begins steps calls this runtime from one thread only. What concerns a slot waits until its step is done.
        """
        frames, logits = self._checked(slots, frames)
        self._step_thread().begin(self._slots.rows, slots, frames, logits)

    def finished(self) -> Sequence[Float32Array]:
        """Return the logits of the steps that were finished since this was last asked, in the order they were begun."""
        return self._step_thread().finished()

    def fileno(self) -> int:
        """Return a descriptor that is readable when a step that was begun is finished."""
        return self._step_thread().fileno()

    def close_steps(self) -> None:
        """Wait for steps that are under way and end their thread; the next `begin` makes another."""
        if self._steps is not None:
            self._steps.close()
            self._steps = None

    def save_slot(self, slot: int) -> State:
        """Return a copy of a slot's state."""
        self._wait_for(slot)
        return self._slots.save(slot)

    def load_slot(self, slot: int, state: State) -> None:
        """Put back a state that `save_slot` returned; raises SignalError when names or shapes differ."""
        self._wait_for(slot)
        self._slots.load(slot, state)

    def state_sizes(self, slot: int) -> dict[str, float]:
        """Return the root mean square of each tensor of a slot."""
        self._slots.require([slot])
        self._wait_for(slot)
        names = (tensor.name for tensor in self.bundle.manifest.state)
        return dict(zip(names, self._model.sizes(self._slots.rows, slot), strict=True))

    def _checked(self, slots: Sequence[int], frames: Float32Array) -> tuple[Float32Array, Float32Array]:
        """Return the frames as the kernel takes them, and room for the logits."""
        manifest = self.bundle.manifest
        check_frames(manifest, len(slots), frames)
        self._slots.require(slots)
        logits = np.empty((len(slots), len(manifest.classes)), dtype=np.float32)
        return np.ascontiguousarray(frames, dtype=np.float32), logits

    def _step_thread(self) -> StepThread:
        if self._steps is None:
            self._steps = StepThread(self._module, self._model)
        return self._steps

    def _settle(self) -> None:
        if self._steps is not None:
            self._steps.settle()

    def _wait_for(self, slot: int) -> None:
        if self._steps is not None:
            self._steps.wait_for(slot)

    def _step_in_parts(self, parts: int, slots: Sequence[int], frames: Float32Array, logits: Float32Array) -> None:
        edges = [len(slots) * k // parts for k in range(parts + 1)]
        calls = [
            partial(self._model.step, self._slots.rows, slots[i:j], frames[i:j], logits[i:j])
            for i, j in pairwise(edges)
        ]
        assert self._pool is not None
        waiting = [self._pool.submit(call) for call in calls[1:]]
        calls[0]()
        for part in waiting:
            part.result()


class RowStore(SlotStore):
    """A slot store whose tensors are views into one array, `rows` (capacity, floats), as the kernel lays it out."""

    def __init__(
        self, tensors: Sequence[StateTensor], places: Sequence[Place], floats: int, before_move: Callable[[], None]
    ) -> None:
        """before_move is called before the rows move elsewhere to make room for more."""
        self._before_move = before_move
        self._places = {tensor.name: place for tensor, place in zip(tensors, places, strict=True)}
        self._floats = floats
        super().__init__(tensors)
        super()._clear(0)
        self._start_row = self.rows[0].copy()

    def _allocate(self, capacity: int) -> State:
        self.rows = aligned_zeros(capacity, self._floats)
        return {name: self._view(name, *place) for name, place in self._places.items()}

    def _view(self, name: str, offset: int, rows: int, columns: int, stride: int) -> Float32Array:
        """One tensor of all slots, in the manifest's shape: the kernel has channels last, as vectors need them."""
        part = self.rows[:, offset : offset + rows * stride]
        view = part.reshape(len(part), rows, stride)[:, :, :columns]
        if name == "pool_count":
            return view[:, :, 0]
        return view if name.startswith("pool") else view.transpose(0, 2, 1)

    def _clear(self, slot: int) -> None:
        self.rows[slot] = self._start_row

    def _grow(self) -> None:
        self._before_move()
        super()._grow()


def aligned_zeros(rows: int, columns: int) -> Float32Array:
    """Return zeros (rows, columns) that start on a cache line."""
    spare = ALIGNMENT_BYTES // 4
    memory = np.zeros(rows * columns + spare, dtype=np.float32)
    first = -memory.ctypes.data % ALIGNMENT_BYTES // 4
    return memory[first : first + rows * columns].reshape(rows, columns)


def _build(module: ModuleType, bundle: Bundle) -> Any:
    """Build the kernel's model."""
    shape = shape_of(bundle.manifest)
    weights = ordered_weights(shape, read_weights(bundle))
    try:
        return module.Model(shape.numbers(), weights)
    except ValueError as error:  # from the kernel: a dimension it does not take
        raise RuntimeUnavailableError(NAME, f"the kernel does not take this model: {error}") from None
