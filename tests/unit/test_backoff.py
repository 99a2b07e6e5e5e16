"""The pause before the next attempt: full jitter under a growing, bounded ceiling."""

from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge.daemon.backoff import full_jitter_s

BASE_S, CAP_S = 0.5, 30.0


def highest() -> float:
    return 1.0 - 2**-53


@given(attempt=st.integers(0, 10**6), chance=st.floats(0, 1, exclude_max=True))
def test_a_pause_is_never_negative_and_never_above_the_cap(attempt: int, chance: float) -> None:
    assert 0.0 <= full_jitter_s(attempt, BASE_S, CAP_S, lambda: chance) <= CAP_S


@pytest.mark.parametrize(("attempt", "ceiling_s"), [(0, 0.5), (1, 1.0), (2, 2.0), (5, 16.0), (6, 30.0), (1000, 30.0)])
def test_the_ceiling_doubles_until_the_cap(attempt: int, ceiling_s: float) -> None:
    assert full_jitter_s(attempt, BASE_S, CAP_S, highest) == pytest.approx(ceiling_s)


def test_a_pause_may_be_nothing_at_all_however_many_attempts_failed() -> None:
    assert full_jitter_s(50, BASE_S, CAP_S, lambda: 0.0) == 0.0


def test_a_fleet_spreads_evenly_over_the_ceiling() -> None:
    source = random.Random(4)
    pauses_s = [full_jitter_s(3, BASE_S, CAP_S, source.random) for _ in range(4000)]
    for quarter in range(4):
        share = sum(quarter <= pause_s < quarter + 1 for pause_s in pauses_s) / len(pauses_s)
        assert share == pytest.approx(0.25, abs=0.03)
