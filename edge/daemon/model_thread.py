"""Where the model is called: beside the event loop, so that neither waits for the other."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Sequence
from typing import NamedTuple, Protocol, TypeVar

from edge.daemon.device_stream import DeviceStream, WaitingHop
from edge.daemon.workers import Worker
from edge.monitor.engine import HopScore, ModelStream, score_hops, scores_of, step_for
from edge.monitor.path import Hop
from edge.runtime.base import Runtime
from edge.runtime.native import NativeRuntime

Batch = Sequence[tuple[DeviceStream, WaitingHop]]
T = TypeVar("T")


class ModelThread(Protocol):
    """Calls the runtime, and nobody else does. What concerns one stream happens in the order in which it was asked."""

    def score(self, batch: Batch) -> asyncio.Future[list[HopScore]]:
        """Give every stream its place and advance all by their hops, behind the batches that were given before."""

    async def call(self, function: Callable[..., T], *arguments: object) -> T:
        """Call a function that does something with the runtime; none of its slots may be those of a batch."""

    def close(self) -> None:
        """Wait for what is under way and end."""


def model_thread(runtime: Runtime) -> ModelThread:
    """Return the quickest way to call a runtime."""
    if isinstance(runtime, NativeRuntime) and runtime.can_begin:
        return NativeModelThread(runtime)
    return AnyModelThread(runtime)


class AnyModelThread:
    """Calls any runtime in a thread of Python."""

    def __init__(self, runtime: Runtime) -> None:
        self._runtime, self._worker = runtime, Worker("model")

    def score(self, batch: Batch) -> asyncio.Future[list[HopScore]]:
        """See `ModelThread`."""
        return self._worker.start(_scored, self._runtime, batch)

    async def call(self, function: Callable[..., T], *arguments: object) -> T:
        """See `ModelThread`."""
        return await self._worker.call(function, *arguments)

    def close(self) -> None:
        """See `ModelThread`."""
        self._worker.close()


class _Begun(NamedTuple):
    streams: Sequence[ModelStream]
    hops: Sequence[Hop]
    scores: asyncio.Future[list[HopScore]]


class NativeModelThread:
    """Leaves to the native kernel's own thread what it computes, and does on the event loop what takes microseconds.

    So the process has one thread that interprets: none waits for another to let go of the interpreter.
    """

    def __init__(self, runtime: NativeRuntime) -> None:
        self._runtime = runtime
        self._begun: deque[_Begun] = deque()
        self._loop: asyncio.AbstractEventLoop | None = None

    def score(self, batch: Batch) -> asyncio.Future[list[HopScore]]:
        """See `ModelThread`."""
        if self._loop is None:
            self._loop = asyncio.get_running_loop()
            self._loop.add_reader(self._runtime.fileno(), self._finish)
        scores: asyncio.Future[list[HopScore]] = self._loop.create_future()
        try:
            streams, hops = _placed(self._runtime, batch)
            self._runtime.begin(*step_for(self._runtime, streams, hops))
        except Exception as error:
            scores.set_exception(error)
        else:
            self._begun.append(_Begun(streams, hops, scores))
        return scores

    async def call(self, function: Callable[..., T], *arguments: object) -> T:
        """See `ModelThread`."""
        return function(*arguments)

    def close(self) -> None:
        """See `ModelThread`."""
        if self._loop is not None:
            self._loop.remove_reader(self._runtime.fileno())
        self._runtime.close_steps()

    def _finish(self) -> None:
        """Take what the kernel has finished."""
        for said in self._runtime.finished():
            streams, hops, scores = self._begun.popleft()
            if scores.done():  # nobody waits for it any more
                continue
            try:
                scores.set_result(scores_of(self._runtime, streams, hops, said))
            except Exception as error:
                scores.set_exception(error)


def _scored(runtime: Runtime, batch: Batch) -> list[HopScore]:
    return score_hops(runtime, *_placed(runtime, batch))


def _placed(runtime: Runtime, batch: Batch) -> tuple[Sequence[ModelStream], Sequence[Hop]]:
    """Return every stream's place in the runtime, and its hop."""
    return [stream.join_model(runtime) for stream, _ in batch], [entry.hop for _, entry in batch]
