"""A GPU that is not there: memory with addresses, streams that do their work late, and graphs, all of them strict.

What a real GPU leaves undefined is a fault here: pointers past an allocation or into a freed one, work without a
context, pageable memory in an asynchronous copy, a graph of a context that has changed since. Work put into a stream is
done when somebody waits for the stream, so whoever forgets to wait sees old values.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np

FIRST_ADDRESS = 0x7F00_0000_0000
ALIGNMENT = 512
GUARD_BYTES = 4096
UNTOUCHED = np.float32(np.nan).tobytes()
"""New memory holds no numbers, and as an index it is far out of every range."""

Work = Callable[[], None]


class GpuFault(Exception):
    """Something a real GPU would not survive, or would silently get wrong."""


@dataclass
class Stream:
    """Work in order. While `recording` is a list, work goes there instead."""

    handle: int
    queue: list[Work] = field(default_factory=list)
    recording: list[Work] | None = None
    recording_failed: bool = False


@dataclass
class Machine:
    """One GPU and what was done with it."""

    sm: tuple[int, int] = (8, 7)
    name: str = "Orin"
    tensorrt: str = "10.3.0"
    recordable: bool = True
    """Whether engines can be captured in CUDA graphs."""
    float32_products: bool = True
    """Whether the compiler has float32 matrix products for this GPU."""
    failure: str | None = None
    """What the driver says from now on when somebody waits for it: the GPU has died."""

    dies_whole: bool = False
    """Whether it then also refuses to let go of its context."""

    driver_too_old: bool = False
    """Whether TensorRT finds a driver that is older than it needs."""

    contexts_left: int = 1000
    """How many execution contexts there is memory for."""
    loggers: list[object] = field(default_factory=list)
    """What TensorRT was given to report to; it keeps the address of the first for good."""

    allocations: int = 0
    builds: int = 0
    executions: int = 0
    """Hops run launch by launch."""
    replays: int = 0
    """Hops run as a graph."""
    profiles_used: list[int] = field(default_factory=list)
    graphs: dict[int, list[Work]] = field(default_factory=dict)
    """Graphs that nobody has destroyed yet."""

    def __post_init__(self) -> None:
        self._memory: dict[int, np.ndarray] = {}
        self._freed: list[tuple[int, int]] = []
        self._next = FIRST_ADDRESS
        self._pinned: list[np.ndarray] = []
        self._streams: dict[int, Stream] = {}
        self._contexts = threading.local()
        self.released = False

    def push(self) -> None:
        """Make the context current in this thread."""
        if self.released:
            raise GpuFault("the context was released")
        self._contexts.depth = self._depth + 1

    def pop(self) -> None:
        """Undo a push."""
        if self._depth == 0:
            raise GpuFault("pop without push")
        self._contexts.depth = self._depth - 1

    def release(self) -> None:
        """Give the primary context up, and with it all that lives there."""
        if self.failure is None:
            raise GpuFault("the context was released while memory, streams and TensorRT's objects live in it")
        self.released, self._contexts.depth = True, 0

    @property
    def is_current(self) -> bool:
        """Whether the context is current in this thread: no thread may end with one."""
        return self._depth > 0

    def require_context(self) -> None:
        """Every call to the driver needs one."""
        if self._depth == 0:
            raise GpuFault("no context is current in this thread")

    @property
    def _depth(self) -> int:
        return int(getattr(self._contexts, "depth", 0))

    def allocate(self, size: int) -> int:
        """Return the address of new memory, which begins 512-byte aligned and ends before a guard."""
        self.require_context()
        self.forbid_while_recording("an allocation")
        self.allocations += 1
        address, self._next = self._next, -(-(self._next + size + GUARD_BYTES) // ALIGNMENT) * ALIGNMENT
        self._memory[address] = np.resize(np.frombuffer(UNTOUCHED, np.uint8), size).copy()
        return address

    def free(self, address: int) -> None:
        """Give memory back; whoever uses it from now on is at fault."""
        self.require_context()
        if address not in self._memory:
            raise GpuFault(f"{address:#x} is no allocation, or was freed before")
        self._freed.append((address, self._memory.pop(address).size))

    def bytes_at(self, address: int, size: int) -> np.ndarray:
        """Return the memory from an address on, as bytes that can be written."""
        for start, memory in self._memory.items():
            if start <= address < start + memory.size:
                if address + size > start + memory.size:
                    raise GpuFault(f"{size} bytes at {address:#x} run past the end of their allocation")
                return memory[address - start : address - start + size]
        freed = any(start <= address < start + length for start, length in self._freed)
        raise GpuFault(f"{address:#x} points {'into freed memory' if freed else 'nowhere'}")

    def regions(self) -> list[tuple[int, np.ndarray]]:
        """Return every allocation: where it begins, and its bytes."""
        return list(self._memory.items())

    def floats_at(self, address: int, shape: tuple[int, ...]) -> np.ndarray:
        """Return the memory from an address on as float32 of a shape."""
        return self.bytes_at(address, 4 * int(np.prod(shape))).view(np.float32).reshape(shape)

    def pin(self, count: int, dtype: object) -> np.ndarray:
        """Return host memory that asynchronous copies may use."""
        self.require_context()
        memory = np.empty(count, dtype)
        memory.view(np.uint8)[:] = 0xAB
        self._pinned.append(memory)
        return memory

    def require_pinned(self, array: np.ndarray) -> None:
        """An asynchronous copy from other memory is not asynchronous, and cannot be recorded."""
        start, size = array.__array_interface__["data"][0], array.nbytes
        for memory in self._pinned:
            begin = memory.__array_interface__["data"][0]
            if begin <= start and start + size <= begin + memory.nbytes:
                return
        raise GpuFault("an asynchronous copy of pageable memory")

    def open_stream(self) -> Stream:
        """Make a stream."""
        self.require_context()
        stream = Stream(handle=0x5000_0000_0000 + 64 * len(self._streams))
        self._streams[stream.handle] = stream
        return stream

    def stream(self, handle: int) -> Stream:
        """Find a stream by its handle."""
        if handle not in self._streams:
            raise GpuFault(f"{handle:#x} is no stream")
        return self._streams[handle]

    def submit(self, stream: Stream, work: Work) -> None:
        """Put work into a stream, or into the graph that is being recorded there."""
        self.require_context()
        (stream.queue if stream.recording is None else stream.recording).append(work)

    def synchronize(self, stream: Stream) -> None:
        """Do the work of a stream."""
        self.require_context()
        self.forbid_while_recording("waiting")
        queue, stream.queue = stream.queue, []
        for work in queue:
            work()

    def synchronize_all(self) -> None:
        """What a blocking copy on the default stream does first."""
        for stream in self._streams.values():
            self.synchronize(stream)

    def forbid_while_recording(self, what: str) -> None:
        """Some calls cannot be part of a graph."""
        if any(stream.recording is not None for stream in self._streams.values()):
            raise GpuFault(f"{what} while a stream is recorded")
