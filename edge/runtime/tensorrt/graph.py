"""CUDA graphs: a sequence of launches recorded once and replayed by a single call.

pycuda has no calls for them, so these few go to the driver's library itself (CUDA Driver API, "Stream Management" and
"Graph Management").
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from typing import Any

from edge.errors import EcgEdgeError, RuntimeUnavailableError
from edge.runtime.tensorrt.targets import NAME

LIBRARY = "libcuda.so.1"
ONLY_THIS_THREAD = 1  # CU_STREAM_CAPTURE_MODE_THREAD_LOCAL
SUCCESS = 0


class CaptureError(EcgEdgeError):
    """Work that cannot be recorded as a graph; it runs launch by launch instead."""


class CudaGraph:
    """Recorded work. It holds the addresses it was recorded with: they must stay valid as long as it is launched."""

    def __init__(self, driver: Any, handle: ctypes.c_void_p) -> None:
        self._driver, self._handle = driver, handle

    def launch(self, stream: int) -> None:
        """Replay the work in a stream; raises RuntimeUnavailableError when the driver refuses, as a dead GPU's does."""
        status = self._driver.cuGraphLaunch(self._handle, ctypes.c_void_p(stream))
        if status != SUCCESS:
            raise RuntimeUnavailableError(NAME, f"the GPU cannot be used: cuGraphLaunch returned error {status}")

    def __del__(self) -> None:
        self._driver.cuGraphExecDestroy(self._handle)


def load_driver() -> Any:
    """Open the driver's library."""
    return ctypes.CDLL(LIBRARY)


def record(driver: Any, stream: int, work: Callable[[], bool]) -> CudaGraph:
    """Record what `work` puts into a stream, without running it; it returns False when it could not.

    Raises CaptureError when something in it cannot be recorded; the stream is then as it was before.
    """
    handle, graph, launchable = ctypes.c_void_p(stream), ctypes.c_void_p(), ctypes.c_void_p()
    _check(driver.cuStreamBeginCapture_v2(handle, ctypes.c_int(ONLY_THIS_THREAD)), "cuStreamBeginCapture")
    try:
        try:
            done = work()
        finally:  # also after an error: a stream left recording would swallow everything that follows
            status = driver.cuStreamEndCapture(handle, ctypes.byref(graph))
        _check(status, "cuStreamEndCapture")
        if not done:
            raise CaptureError("the work refused to be recorded")
        flags = ctypes.c_ulonglong(0)
        _check(driver.cuGraphInstantiateWithFlags(ctypes.byref(launchable), graph, flags), "cuGraphInstantiate")
    finally:
        if graph:  # a recording that failed has left none
            driver.cuGraphDestroy(graph)
    return CudaGraph(driver, launchable)


def _check(status: int, call: str) -> None:
    if status != SUCCESS:
        raise CaptureError(f"{call} returned error {status}")
