"""TensorRT on an NVIDIA GPU: the states stay there from hop to hop, and a hop of a batch is one call."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from types import ModuleType

import numpy as np

from edge.errors import RuntimeUnavailableError, SignalError
from edge.runtime.base import Float32Array, State, check_frames, require_recurrent, sizes_of
from edge.runtime.bundle import Bundle
from edge.runtime.manifest import GRAPHS
from edge.runtime.tensorrt.bucket import Bucket, Gpu
from edge.runtime.tensorrt.cache import EngineCache
from edge.runtime.tensorrt.device import CudaDevice
from edge.runtime.tensorrt.engine import Engines, OpenedEngine, import_tensorrt
from edge.runtime.tensorrt.graph import load_driver
from edge.runtime.tensorrt.key import batch_profiles
from edge.runtime.tensorrt.rows import RowMover
from edge.runtime.tensorrt.slots import CudaSlots, StateRows
from edge.runtime.tensorrt.targets import NAME, Device, default_precision


class TensorRtRuntime:
    """Runs a bundle's engine on the GPU that is here; see `edge.runtime.base.Runtime` for the contract.

    Raises RuntimeUnavailableError, in one line, when TensorRT, pycuda, the driver, a GPU or an engine that was built
    for this model and this device (`ecg-export tensorrt`) is missing.
    """

    name = NAME

    def __init__(self, bundle: Bundle, threads: int = 1, precision: str | None = None) -> None:
        """`threads` is for the other runtimes; `precision` is "fp32", "fp16" or None for what was built here.

        Where both were, it is what suits the GPU.
        """
        self.bundle = bundle
        require_recurrent(NAME, bundle.manifest)
        trt = import_tensorrt()
        self._device = CudaDevice()
        with self._device.current():
            self._opened, self.precision = _load_engine(trt, bundle, self._device.facts, precision)
            self.name = f"{NAME}-{self.precision}"
            rows = StateRows(bundle.manifest.state)
            self._slots = CudaSlots(self._device, rows)
            self._buckets = self._open_buckets(trt, rows)

    def open_slot(self) -> int:
        """Reserve a slot in its initial state and return its number."""
        with self._device.current():
            return self._slots.open()

    def close_slot(self, slot: int) -> None:
        """Give a slot back."""
        self._slots.close(slot)

    def reset_slot(self, slot: int) -> None:
        """Put a slot back into its initial state."""
        with self._device.current():
            self._slots.reset(slot)

    def step(self, slots: Sequence[int], frames: Float32Array) -> Float32Array:
        """Advance distinct slots by frames (slots, samples, leads); return logits (slots, classes).

        Raises SignalError for frames that do not fit and for slots that are not open or named twice, and
        RuntimeUnavailableError when the GPU fails.
        """
        manifest = self.bundle.manifest
        check_frames(manifest, len(slots), frames)
        self._slots.require(slots)
        logits = np.empty((len(slots), len(manifest.classes)), dtype=np.float32)
        with self._device.current():
            for bucket, part in self._batches(len(slots), frames.shape[1]):
                logits[part] = bucket.run(self._slots.address, slots[part], frames[part])
        return logits

    def save_slot(self, slot: int) -> State:
        """Return a copy of a slot's state."""
        with self._device.current():
            return self._slots.save(slot)

    def load_slot(self, slot: int, state: State) -> None:
        """Put back a state that `save_slot` returned; raises SignalError when names or shapes differ."""
        with self._device.current():
            self._slots.load(slot, state)

    def state_sizes(self, slot: int) -> dict[str, float]:
        """Return the root mean square of each tensor of a slot."""
        return sizes_of(self.save_slot(slot))

    def _open_buckets(self, trt: ModuleType, rows: StateRows) -> list[Bucket]:
        manifest = self.bundle.manifest
        gpu = Gpu(self._device, load_driver(), trt, self._opened.engine, RowMover(self._device))
        leads, classes = len(manifest.leads), len(manifest.classes)
        profiles = batch_profiles(manifest)
        return [Bucket(gpu, index, profile, rows, leads, classes) for index, profile in enumerate(profiles)]

    def _batches(self, streams: int, samples: int) -> Iterator[tuple[Bucket, slice]]:
        """Deal streams to buckets: the smallest that holds all of them, else the largest, again and again."""
        usable = [bucket for bucket in self._buckets if samples <= bucket.profile.longest]
        if streams and not usable:
            longest = max(bucket.profile.longest for bucket in self._buckets)
            raise SignalError(f"the engine takes chunks of up to {longest} samples, not {samples}")
        start = 0
        while start < streams:
            left = streams - start
            bucket = next((b for b in usable if b.profile.batch >= left), usable[-1])
            yield bucket, slice(start, start + bucket.profile.batch)
            start += bucket.profile.batch


def _load_engine(trt: ModuleType, bundle: Bundle, device: Device, precision: str | None) -> tuple[OpenedEngine, str]:
    """Return an engine of the precision, or of the first that was built, and which that is."""
    usual, cache = default_precision(device), EngineCache()
    problems = []
    for each in sorted(GRAPHS, key=lambda name: name != usual) if precision is None else [precision]:
        try:
            return Engines(trt, bundle, device, each, cache).load(), each
        except RuntimeUnavailableError as error:
            problems.append(error)
    raise problems[0]
