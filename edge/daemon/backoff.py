"""How long to wait before the next attempt."""

from __future__ import annotations

from collections.abc import Callable

_LARGEST_EXPONENT = 62


def full_jitter_s(attempt: int, base_s: float, cap_s: float, random: Callable[[], float]) -> float:
    """Return a pause in [0, min(cap_s, base_s · 2^attempt)), attempt counted from 0, random() in [0, 1).

    Full jitter spreads a fleet that lost its broker at one instant evenly over the pause.
    Source: M. Brooker, "Exponential Backoff And Jitter", AWS Architecture Blog, 2015.
    """
    ceiling_s = min(cap_s, base_s * 2.0 ** min(attempt, _LARGEST_EXPONENT))
    return ceiling_s * random()
