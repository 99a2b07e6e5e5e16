"""Worker threads beside the event loop: for the alerts on disk, for the snapshots, for runtimes that wait."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

from edge.errors import StorageError

T = TypeVar("T")


class Worker:
    """A named thread that runs blocking calls in the order they were made."""

    def __init__(self, name: str) -> None:
        self._executor = ThreadPoolExecutor(max_workers=1, thread_name_prefix=name)

    def start(self, function: Callable[..., T], *arguments: object) -> asyncio.Future[T]:
        """Have the thread run a function, behind what it was given before; the future has what it returns."""
        return asyncio.get_running_loop().run_in_executor(self._executor, function, *arguments)

    async def call(self, function: Callable[..., T], *arguments: object) -> T:
        """Run a function in the thread and return what it returns."""
        return await self.start(function, *arguments)

    def close(self) -> None:
        """Wait for what is running and end the thread."""
        self._executor.shutdown()


class Disk(Worker):
    """A worker for a disk, which may hang without refusing anything: an answer is waited for only so long."""

    def __init__(self, name: str, patience_s: float) -> None:
        super().__init__(name)
        self._patience_s = patience_s
        self._overdue: set[asyncio.Future[Any]] = set()

    async def ask(
        self, function: Callable[..., T], *arguments: object, late: Callable[[T], object] | None = None
    ) -> T:  # fmt: skip
        """Run a function in the thread and return what it returns.

        Raises StorageError when that takes too long, and at once while anything asked before is overdue. `late` is
        given what comes too late all the same.
        """
        if self._overdue:
            raise self._hangs()
        answer = self.start(function, *arguments)
        await asyncio.wait([answer], timeout=self._patience_s)
        if answer.done():
            return answer.result()
        self._overdue.add(answer)
        answer.add_done_callback(lambda done: self._take_late(done, late))
        raise self._hangs()

    def _take_late(self, answer: asyncio.Future[T], late: Callable[[T], object] | None) -> None:
        self._overdue.discard(answer)
        if not answer.cancelled() and answer.exception() is None and late is not None:
            late(answer.result())

    def _hangs(self) -> StorageError:
        return StorageError(f"the disk has not answered for {self._patience_s:g} s; check its health")
