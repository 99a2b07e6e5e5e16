"""Worker threads beside the event loop: for the alerts on disk, for the snapshots, for runtimes that wait."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

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
