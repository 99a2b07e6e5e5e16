"""The collector of cycles: what stays is set aside, what is new is still collected, and all of it now and then."""

from __future__ import annotations

import asyncio
import gc
import weakref
from collections.abc import Iterator

import pytest

from edge.daemon import garbage


class Knot:
    """A cycle, which only the collector can free."""

    def __init__(self) -> None:
        self.itself = self


@pytest.fixture
def unfrozen() -> Iterator[None]:
    yield
    gc.unfreeze()
    gc.collect()


def settled(rounds: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let so many rounds go by."""
    monkeypatch.setattr(garbage, "SETTLE_EVERY_S", 0.0)

    async def run() -> None:
        task = asyncio.create_task(garbage.settle_garbage())
        for _ in range(rounds + 1):
            await asyncio.sleep(0)
            await asyncio.sleep(0)
        task.cancel()

    asyncio.run(run())


def test_what_stays_is_set_aside_and_what_is_new_and_knotted_is_freed(
    monkeypatch: pytest.MonkeyPatch, unfrozen: None
) -> None:
    kept, lost = Knot(), weakref.ref(Knot())
    before = gc.get_freeze_count()
    settled(1, monkeypatch)
    assert lost() is None
    assert gc.get_freeze_count() > before
    assert kept not in gc.get_objects()


def test_what_was_set_aside_is_looked_through_once_in_a_while(monkeypatch: pytest.MonkeyPatch, unfrozen: None) -> None:
    monkeypatch.setattr(garbage, "FULL_EVERY", 5)
    knot = Knot()
    gc.freeze()
    seen = weakref.ref(knot)
    del knot
    settled(1, monkeypatch)
    assert seen() is not None
    settled(8, monkeypatch)
    assert seen() is None
