"""One batch size of an engine on the GPU: its execution context, its buffers, and a CUDA graph of a whole hop.

A hop is: samples and slot numbers in, rows gathered from the slots, the engine, rows scattered back, logits out. The
states are double-buffered: the engine reads one set of buffers and writes another, and the slots change only after it.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from types import ModuleType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edge.errors import RuntimeUnavailableError
from edge.runtime.base import Float32Array
from edge.runtime.tensorrt.complaints import complaints_of
from edge.runtime.tensorrt.device import CudaDevice
from edge.runtime.tensorrt.graph import CaptureError, CudaGraph, record
from edge.runtime.tensorrt.key import BatchProfile
from edge.runtime.tensorrt.rows import RowMover
from edge.runtime.tensorrt.slots import StateRows
from edge.runtime.tensorrt.targets import NAME

ALIGNED_FLOATS = 64
"""TensorRT takes tensors at multiples of 256 bytes."""

PADDING = -1
"""The slot number of a row of the batch that no stream has."""

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Gpu:
    """What all buckets work with."""

    device: CudaDevice
    driver: Any
    trt: ModuleType
    engine: Any
    mover: RowMover

    @property
    def complaint(self) -> str:
        """What TensorRT last said is wrong."""
        return complaints_of(self.trt).last


@dataclass(frozen=True)
class _Recipe:
    """What a context was last prepared for: another needs its shapes, and its graph, anew."""

    samples: int
    table: int


class Bucket:
    """Advances up to `profile.batch` slots at a time, always computing the whole batch.

    Every method needs the device's context.
    """

    def __init__(self, gpu: Gpu, index: int, profile: BatchProfile, rows: StateRows, leads: int, classes: int) -> None:
        self.profile = profile
        self._gpu, self._rows, self._leads, self._classes = gpu, rows, leads, classes
        batch, device = profile.batch, gpu.device
        starts, floats = _aligned_starts(rows, batch)
        self._x, self._x_host = _pair(device, batch * profile.longest * leads, np.float32)
        self._slots, self._slots_host = _pair(device, batch, np.int32)
        self._logits, logits_host = _pair(device, batch * classes, np.float32)
        self._logits_host = logits_host.reshape(batch, classes)
        self._before, self._after = device.allocate(floats), device.allocate(floats)
        offsets, strides = _columns(rows, starts)
        self._offsets, self._strides = device.upload(offsets), device.upload(strides)
        self._context = self._open_context(index)
        self._bind(starts)
        self._set_shapes(profile.usual)  # so that an engine that does not fit is known before it is relied on
        self._recipe: _Recipe | None = None
        self._graph: CudaGraph | None = None
        self._recordable = True

    def run(self, table: int, slots: Sequence[int], frames: Float32Array) -> Float32Array:
        """Advance slots of the table at an address by frames (slots, samples, leads); return logits (slots, classes).

        At most `profile.batch` slots, and `profile.shortest` to `profile.longest` samples.
        """
        samples, used = frames.shape[1], len(slots)
        self._samples_host(samples)[:used] = frames  # padding computes on what was there before, for nobody
        self._slots_host[:used], self._slots_host[used:] = slots, PADDING
        recipe = _Recipe(samples, table)
        if recipe == self._recipe:
            self._replay(recipe)
        else:
            self._prepare(recipe)
            self._launch(recipe)
        self._gpu.device.wait()
        logits: Float32Array = self._logits_host[:used].copy()
        return logits

    def _prepare(self, recipe: _Recipe) -> None:
        """Give the context its shapes; a graph recorded for others no longer holds."""
        self._graph, self._recipe = None, None
        self._set_shapes(recipe.samples)
        self._recipe = recipe

    def _replay(self, recipe: _Recipe) -> None:
        """Launch the graph of a hop, which is recorded the second time a recipe runs.

        The first run must not be recorded: TensorRT then still sets things up (its guide, "CUDA Graphs").
        """
        if self._graph is None and self._recordable:
            self._graph = self._record(recipe)
        if self._graph is None:
            self._launch(recipe)
        else:
            self._graph.launch(self._gpu.device.stream.handle)

    def _record(self, recipe: _Recipe) -> CudaGraph | None:
        device = self._gpu.device
        try:
            return record(self._gpu.driver, device.stream.handle, lambda: self._enqueue(recipe))
        except (CaptureError, device.error) as error:
            self._recordable = False  # an engine that cannot be recorded once never can
            _log.warning("batch %d runs launch by launch: %s", self.profile.batch, error)
            return None

    def _launch(self, recipe: _Recipe) -> None:
        complaints_of(self._gpu.trt).forget()
        if not self._enqueue(recipe):
            self._recipe = None
            raise RuntimeUnavailableError(
                NAME, f"TensorRT refuses a batch of {self.profile.batch}: {self._gpu.complaint}"
            )

    def _enqueue(self, recipe: _Recipe) -> bool:
        """Put a whole hop into the stream; False when TensorRT does not take it."""
        gpu, batch, columns = self._gpu, self.profile.batch, self._rows.columns
        slots, offsets, strides = int(self._slots), int(self._offsets), int(self._strides)
        gpu.device.copy_in(int(self._x), self._samples_host(recipe.samples))
        gpu.device.copy_in(slots, self._slots_host)
        gpu.mover.gather(batch, columns, (recipe.table, int(self._before), slots, offsets, strides))
        if not self._context.execute_async_v3(gpu.device.stream.handle):
            return False
        gpu.mover.scatter(batch, columns, (recipe.table, int(self._after), slots, offsets, strides))
        gpu.device.copy_out(self._logits_host, int(self._logits))
        return True

    def _samples_host(self, samples: int) -> Float32Array:
        """The part of the pinned buffer that a hop of this length fills: (batch, samples, leads)."""
        batch, leads = self.profile.batch, self._leads
        return self._x_host[: batch * samples * leads].reshape(batch, samples, leads)

    def _open_context(self, index: int) -> Any:
        # memory for this profile alone: by default each context has what the largest of all needs
        complaints_of(self._gpu.trt).forget()
        strategy = self._gpu.trt.ExecutionContextAllocationStrategy.ON_PROFILE_CHANGE
        context = self._gpu.engine.create_execution_context(strategy)
        if context is None:
            raise RuntimeUnavailableError(NAME, f"TensorRT cannot make an execution context: {self._gpu.complaint}")
        if not context.set_optimization_profile_async(index, self._gpu.device.stream.handle):
            raise RuntimeUnavailableError(NAME, f"the engine has no optimisation profile {index}; build it again")
        self._gpu.device.wait()
        return context

    def _bind(self, starts: dict[str, int]) -> None:
        before, after = int(self._before), int(self._after)
        addresses = {"x": int(self._x), "logits": int(self._logits)}
        for name, start in starts.items():
            addresses |= {name: before + 4 * start, f"{name}_out": after + 4 * start}
        for name, address in addresses.items():
            if not self._context.set_tensor_address(name, address):
                raise RuntimeUnavailableError(NAME, f"the engine does not take tensor {name}; build it again")

    def _set_shapes(self, samples: int) -> None:
        """Give the context its inputs' shapes; then its outputs must be as large as the buffers they are bound to."""
        batch = self.profile.batch
        self._set_shape("x", (batch, samples, self._leads))
        for name, shape in self._rows.shapes.items():
            self._set_shape(name, (batch, *shape))
        self._require_shape("logits", (batch, self._classes))
        for name, shape in self._rows.shapes.items():
            self._require_shape(f"{name}_out", (batch, *shape))

    def _set_shape(self, name: str, shape: tuple[int, ...]) -> None:
        if not self._context.set_input_shape(name, shape):
            raise RuntimeUnavailableError(NAME, f"the engine does not take {name} of shape {shape}; build it again")

    def _require_shape(self, name: str, shape: tuple[int, ...]) -> None:
        given = tuple(self._context.get_tensor_shape(name))
        if given != shape:
            problem = f"the engine gives {name} of shape {given}, not {shape}"
            raise RuntimeUnavailableError(NAME, f"{problem}; build it again")


def _pair(device: CudaDevice, count: int, dtype: type[np.generic]) -> tuple[Any, NDArray[Any]]:
    """Memory of 4-byte values on the GPU, and its pinned counterpart on the host."""
    return device.allocate(count), device.pinned(count, dtype)


def _aligned_starts(rows: StateRows, batch: int) -> tuple[dict[str, int], int]:
    """Where each tensor of a batch begins in a buffer, in floats, and how many floats the buffer has."""
    starts, end = {}, 0
    for name, width in rows.widths.items():
        starts[name] = end
        end += -(-batch * width // ALIGNED_FLOATS) * ALIGNED_FLOATS
    return starts, end


def _columns(rows: StateRows, starts: dict[str, int]) -> tuple[NDArray[np.int32], NDArray[np.int32]]:
    """For each column of a row, where it lies in a buffer for the first row of a batch, and how far the next one is."""
    offsets = [start + np.arange(rows.widths[name]) for name, start in starts.items()]
    strides = [np.full(width, width) for width in rows.widths.values()]
    return np.concatenate(offsets).astype(np.int32), np.concatenate(strides).astype(np.int32)
