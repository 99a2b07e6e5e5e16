"""A disk that hangs is waited for once: what is asked meanwhile is refused at once, what comes late is not lost."""

from __future__ import annotations

import asyncio
import threading

import pytest

from edge.daemon.workers import Disk, Worker
from edge.errors import StorageError


@pytest.fixture
def hanging():
    """What a disk does that answers only when this is set."""
    event = threading.Event()
    yield event
    event.set()


@pytest.fixture
def disk(hanging):
    worker = Disk("disk", 0.05)
    yield worker
    hanging.set()
    worker.close()


async def test_a_worker_runs_what_it_is_given_in_order_in_a_thread_of_its_name():
    worker, done = Worker("disk-of-alerts"), []
    waiting = [worker.start(done.append, number) for number in range(20)]
    name = await worker.call(lambda: threading.current_thread().name)
    await asyncio.gather(*waiting)
    worker.close()
    assert done == list(range(20))
    assert name.startswith("disk-of-alerts")


async def test_a_disk_answers_and_its_errors_are_raised(disk):
    assert await disk.ask(pow, 2, 10) == 1024
    with pytest.raises(ZeroDivisionError):
        await disk.ask(divmod, 1, 0)
    assert await disk.ask(pow, 3, 2) == 9


async def test_while_an_answer_is_overdue_nothing_else_is_asked(disk, hanging):
    asked = []
    with pytest.raises(StorageError, match=r"not answered for 0\.05 s"):
        await disk.ask(hanging.wait)
    for _ in range(3):
        with pytest.raises(StorageError):
            await disk.ask(asked.append, "never")
    hanging.set()
    await answered(disk)
    assert asked == []


async def test_a_late_answer_is_handed_over_and_the_disk_is_asked_again(disk, hanging):
    late = []
    with pytest.raises(StorageError):
        await disk.ask(lambda: hanging.wait() and "rows", late=late.append)
    hanging.set()
    await answered(disk)
    assert late == ["rows"]
    assert await disk.ask(pow, 2, 2) == 4


async def test_a_late_error_is_nobodys_answer(disk, hanging):
    late = []
    with pytest.raises(StorageError):
        await disk.ask(lambda: hanging.wait() and 1 // 0, late=late.append)
    hanging.set()
    await answered(disk)
    assert late == []


async def answered(disk):
    """Return when the disk takes questions again."""
    for _ in range(2000):
        try:
            return await disk.ask(int)
        except StorageError:
            await asyncio.sleep(0.005)
    raise AssertionError("the disk does not answer any more")
