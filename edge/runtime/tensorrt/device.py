"""One GPU through pycuda: memory, a stream, and the context that must be current in whichever thread works with it.

Imported lazily: without the package, the driver or a GPU, opening it says in one line what is missing.
"""

from __future__ import annotations

import contextlib
import ctypes
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

from edge.errors import RuntimeUnavailableError
from edge.runtime.tensorrt.targets import NAME, Device

ORDINAL = 0
"""The GPU that is used; CUDA_VISIBLE_DEVICES chooses another."""


def import_pycuda() -> Any:
    """Import pycuda's driver interface, or raise RuntimeUnavailableError with what to do."""
    try:
        return import_module("pycuda.driver")
    except (ImportError, OSError) as error:
        said = " ".join(str(error).split())
        advice = "install the NVIDIA driver" if "libcuda" in said else "pip install 'ecg-edge[tensorrt]'"
        raise RuntimeUnavailableError(NAME, f"{said}; {advice}") from None


class CudaDevice:
    """The first GPU, its primary context (the one TensorRT uses) and one stream for everything.

    Raises RuntimeUnavailableError where there is none. Every method but `current` needs `current`; `error` is the root
    of what they raise.
    """

    def __init__(self) -> None:
        self._cuda = import_pycuda()
        self.error: type[Exception] = self._cuda.Error
        try:
            self._cuda.init()
            device = self._cuda.Device(ORDINAL)
            self.facts = Device(str(device.name()), tuple(device.compute_capability()))
            self._context = device.retain_primary_context()
        except self.error as error:
            raise _gpu_failure(error) from None
        # Kept until the process ends, which leaves it to the driver: nothing that lives in the context, TensorRT's
        # objects among it, survives its release, and nobody can say in which order Python lets go of all that.
        ctypes.pythonapi.Py_IncRef(ctypes.py_object(self._context))
        with self.current():
            self.stream = self._cuda.Stream()

    @contextmanager
    def current(self) -> Iterator[None]:
        """Make this GPU's context current in this thread; what the driver reports becomes RuntimeUnavailableError."""
        try:
            self._context.push()
            try:
                yield
            finally:
                self._leave()
        except self.error as error:
            raise _gpu_failure(error) from None

    def _leave(self) -> None:
        try:
            self._cuda.Context.pop()
        except self.error:
            # As a GPU that has died answers. pycuda then still counts the context as this thread's, and when a thread
            # ends with one it ends the process; whoever detaches it has none left. The GPU is of no use any more.
            with contextlib.suppress(self.error):
                self._context.detach()
            raise

    def allocate(self, floats: int) -> Any:
        """Return device memory for that many float32 or int32; `int()` of it is its address, `free()` gives it back."""
        return self._cuda.mem_alloc(4 * max(floats, 1))

    def upload(self, values: NDArray[Any]) -> Any:
        """Return new device memory with a copy of an array of 4-byte values."""
        memory = self.allocate(values.size)
        self._cuda.memcpy_htod(memory, np.ascontiguousarray(values))
        return memory

    def pinned(self, count: int, dtype: DTypeLike) -> NDArray[Any]:
        """Return host memory that the GPU copies from and to by itself."""
        memory: NDArray[Any] = self._cuda.pagelocked_empty(count, dtype)
        memory[:] = 0
        return memory

    def copy_in(self, target: int, source: NDArray[Any]) -> None:
        """Copy pinned host memory to a device address, in stream order."""
        self._cuda.memcpy_htod_async(target, source, self.stream)

    def copy_out(self, target: NDArray[Any], source: int) -> None:
        """Copy from a device address to pinned host memory, in stream order."""
        self._cuda.memcpy_dtoh_async(target, source, self.stream)

    def copy(self, target: int, source: int, floats: int) -> None:
        """Copy between device addresses, in stream order."""
        self._cuda.memcpy_dtod_async(target, source, 4 * floats, self.stream)

    def wait(self) -> None:
        """Wait until the stream has done everything; lets other Python threads run."""
        self.stream.synchronize()

    def functions(self, ptx: str, names: tuple[str, ...], arguments: str) -> list[Any]:
        """Load PTX, which the driver itself compiles for this GPU, and return its kernels by name."""
        module = self._cuda.module_from_buffer(ptx.encode() + b"\0")
        return [module.get_function(name).prepare(arguments) for name in names]


def _gpu_failure(error: Exception) -> RuntimeUnavailableError:
    return RuntimeUnavailableError(NAME, f"the GPU cannot be used: {' '.join(str(error).split())}")
