"""The slot store: rows never leak from one stream to another, whatever is opened, closed, written and reset."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge.errors import SignalError
from edge.runtime.manifest import StateTensor
from edge.runtime.slots import SlotStore

TENSORS = [StateTensor("sum", [2, 3], 0.0), StateTensor("max", [4], -3.0e38)]

operations = st.lists(
    st.tuples(st.sampled_from(["open", "close", "reset", "write"]), st.integers(0, 30), st.integers(0, 30)), max_size=60
)


@given(operations)
def test_every_slot_holds_what_was_last_written_to_it(steps: list[tuple[str, int, int]]) -> None:
    store = SlotStore(TENSORS, capacity=2)
    expected: dict[int, float | None] = {}  # None: the initial state
    for number, (kind, first, second) in enumerate(steps):
        slots = sorted(expected)
        if kind == "open":
            slot = store.open()
            assert slot not in expected
            expected[slot] = None
        elif slots and kind == "close":
            store.close(slots[first % len(slots)])
            del expected[slots[first % len(slots)]]
        elif slots and kind == "reset":
            store.reset(slots[first % len(slots)])
            expected[slots[first % len(slots)]] = None
        elif slots:
            chosen = list({slots[second % len(slots)], slots[first % len(slots)]})
            rows = store.gather(chosen)
            store.scatter(chosen, {name: np.full_like(array, number) for name, array in rows.items()})
            expected |= dict.fromkeys(chosen, float(number))
    assert len(store) == len(expected)
    for slot, value in expected.items():
        state = store.save(slot)
        assert np.all(state["sum"] == (0.0 if value is None else value))
        assert np.all(state["max"] == np.float32(-3.0e38 if value is None else value))


def test_what_save_returns_is_a_copy() -> None:
    store = SlotStore(TENSORS)
    slot = store.open()
    store.save(slot)["sum"][:] = 7
    assert not store.save(slot)["sum"].any()


@pytest.mark.parametrize("slots", [[0, 0], [1], [-1], [100]])
def test_slots_that_are_closed_or_named_twice_are_refused(slots: list[int]) -> None:
    store = SlotStore(TENSORS)
    assert store.open() == 0
    with pytest.raises(SignalError, match="slot"):
        store.gather(slots)


def test_closing_twice_is_refused() -> None:
    store = SlotStore(TENSORS)
    slot = store.open()
    store.close(slot)
    with pytest.raises(SignalError, match="not open"):
        store.close(slot)


@pytest.mark.parametrize(
    "state",
    [
        {"sum": np.ones((2, 3), np.float32)},
        {"sum": np.ones((2, 3), np.float32), "max": np.ones(5, np.float32)},
        {"sum": np.ones((2, 3), np.float32), "max": np.ones(4, np.float32), "min": np.ones(4, np.float32)},
    ],
)
def test_a_state_that_does_not_fit_is_refused_whole(state: dict[str, np.ndarray]) -> None:
    store = SlotStore(TENSORS)
    slot = store.open()
    store.scatter([slot], {"sum": np.ones((1, 2, 3), np.float32), "max": np.ones((1, 4), np.float32)})
    with pytest.raises(SignalError, match="saved state"):
        store.load(slot, state)
    assert all((tensor == 1).all() for tensor in store.save(slot).values())
