"""`pycuda.driver` and the calls of `libcuda` that this project makes, over a `Machine`."""

from __future__ import annotations

import struct
from types import ModuleType
from typing import Any

import numpy as np

from tests.fake_gpu import ptx
from tests.fake_gpu.machine import GpuFault, Machine, Stream, Work

SUCCESS = 0
LAUNCH_FAILED = 719
CAPTURE_INVALIDATED = 901
THREAD_LOCAL = 1


class Error(Exception):
    """Root of what pycuda raises."""


class LogicError(Error):
    """A call the driver refuses."""


class DeviceAllocation:
    """Memory of the GPU; freed with its last reference, as pycuda does."""

    def __init__(self, machine: Machine, size: int) -> None:
        self._machine, self._address, self._owned = machine, machine.allocate(size), True

    def __int__(self) -> int:
        return self._address

    __index__ = __int__

    def free(self) -> None:
        self._machine.free(self._address)
        self._owned = False


class Function:
    """A kernel, prepared before it is launched."""

    def __init__(self, machine: Machine, kernel: ptx.Kernel) -> None:
        self._machine, self._kernel, self._format = machine, kernel, ""

    def prepare(self, arguments: str) -> Function:
        if arguments != self._kernel.format:
            raise GpuFault(f"{self._kernel.name} takes {self._kernel.format}, not {arguments}")
        self._format = arguments
        return self

    def prepared_async_call(
        self, grid: tuple[int, int], block: tuple[int, int, int], stream: FakeStream, *arguments: int
    ) -> None:
        packed = struct.pack(self._format, *arguments)
        self._machine.submit(stream.state, lambda: ptx.launch(self._machine, self._kernel, grid, block, packed))


class FakeStream:
    """A stream as pycuda hands it out."""

    def __init__(self, machine: Machine) -> None:
        self._machine, self.state = machine, machine.open_stream()

    @property
    def handle(self) -> int:
        return self.state.handle

    def synchronize(self) -> FakeStream:
        if self._machine.failure is not None:
            raise LogicError(self._machine.failure)
        self._machine.synchronize(self.state)
        return self


def driver_module(machine: Machine) -> ModuleType:
    """Return a module that does for a machine what `pycuda.driver` does for a GPU."""
    module: Any = ModuleType("pycuda.driver")
    module.Error, module.LogicError = Error, LogicError
    module.init = lambda: None
    module.Device = lambda ordinal: _Device(machine, ordinal)
    module.Context = type("Context", (), {"pop": staticmethod(lambda: _pop(machine))})
    module.Stream = lambda: FakeStream(machine)
    module.mem_alloc = lambda size: DeviceAllocation(machine, size)
    module.pagelocked_empty = machine.pin
    module.module_from_buffer = lambda source: _Module(machine, source)
    copies = _Copies(machine)
    module.memcpy_htod = copies.htod
    module.memcpy_htod_async = copies.htod_async
    module.memcpy_dtoh_async = copies.dtoh_async
    module.memcpy_dtod_async = copies.dtod_async
    return module  # type: ignore[no-any-return]


def _pop(machine: Machine) -> None:
    """Take the context off the thread; pycuda asks the driver first, and keeps its own count where that fails."""
    if machine.failure is not None and machine.dies_whole:
        raise LogicError(f"cuCtxPopCurrent failed: {machine.failure}")
    machine.pop()


class _Device:
    def __init__(self, machine: Machine, ordinal: int) -> None:
        assert ordinal == 0
        self._machine = machine

    def name(self) -> str:
        return self._machine.name

    def compute_capability(self) -> tuple[int, int]:
        return self._machine.sm

    def retain_primary_context(self) -> Any:
        self._machine.released = False
        calls = {"push": staticmethod(self._machine.push), "detach": staticmethod(self._machine.release)}
        return type("Context", (), calls)


class _Module:
    def __init__(self, machine: Machine, source: bytes) -> None:
        machine.require_context()
        self._machine, self._kernels = machine, ptx.parse(source)

    def get_function(self, name: str) -> Function:
        return Function(self._machine, self._kernels[name])


class _Copies:
    def __init__(self, machine: Machine) -> None:
        self._machine = machine

    def htod(self, target: int, source: np.ndarray) -> None:
        self._machine.require_context()
        self._machine.synchronize_all()
        self._write(int(target), source)

    def htod_async(self, target: int, source: np.ndarray, stream: FakeStream) -> None:
        self._machine.require_pinned(source)
        self._submit(stream, lambda: self._write(int(target), source))

    def dtoh_async(self, target: np.ndarray, source: int, stream: FakeStream) -> None:
        self._machine.require_pinned(target)
        self._submit(stream, lambda: self._read(target, int(source)))

    def dtod_async(self, target: int, source: int, size: int, stream: FakeStream) -> None:
        def work() -> None:
            self._machine.bytes_at(int(target), size)[:] = self._machine.bytes_at(int(source), size)

        self._submit(stream, work)

    def _submit(self, stream: FakeStream, work: Work) -> None:
        self._machine.submit(stream.state, work)

    def _write(self, target: int, source: np.ndarray) -> None:
        assert source.flags.c_contiguous
        self._machine.bytes_at(target, source.nbytes)[:] = source.reshape(-1).view(np.uint8)

    def _read(self, target: np.ndarray, source: int) -> None:
        target.reshape(-1).view(np.uint8)[:] = self._machine.bytes_at(source, target.nbytes)


class FakeLibcuda:
    """The driver's calls for CUDA graphs, with ctypes' arguments and error numbers."""

    def __init__(self, machine: Machine) -> None:
        self._machine = machine
        self._graphs = machine.graphs

    def cuStreamBeginCapture_v2(self, stream: Any, mode: Any) -> int:
        self._machine.require_context()
        assert mode.value == THREAD_LOCAL
        state = self._stream(stream)
        state.recording, state.recording_failed = [], False
        return SUCCESS

    def cuStreamEndCapture(self, stream: Any, graph: Any) -> int:
        state = self._stream(stream)
        assert state.recording is not None
        work, state.recording = state.recording, None
        if state.recording_failed:
            return CAPTURE_INVALIDATED
        graph._obj.value = self._keep(work)
        return SUCCESS

    def cuGraphInstantiateWithFlags(self, launchable: Any, graph: Any, flags: Any) -> int:
        assert flags.value == 0
        launchable._obj.value = self._keep(list(self._graphs[graph.value]))
        return SUCCESS

    def cuGraphDestroy(self, graph: Any) -> int:
        if graph.value is None:
            raise GpuFault("no graph to destroy")
        del self._graphs[graph.value]
        return SUCCESS

    def cuGraphExecDestroy(self, launchable: Any) -> int:
        del self._graphs[launchable.value]
        return SUCCESS

    def cuGraphLaunch(self, launchable: Any, stream: Any) -> int:
        if self._machine.failure is not None:
            return LAUNCH_FAILED
        self._machine.replays += 1
        for work in self._graphs[launchable.value]:
            self._machine.submit(self._stream(stream), work)
        return SUCCESS

    def _keep(self, work: list[Work]) -> int:
        handle = 0x6000_0000_0000 + 64 * (1 + max((key // 64 % 2**20 for key in self._graphs), default=0))
        self._graphs[handle] = work
        return handle

    def _stream(self, stream: Any) -> Stream:
        return self._machine.stream(int(stream.value))
