"""Finding the largest number that holds, where a try is dear: doubling, then between what held and what failed."""

from __future__ import annotations

import math
from collections.abc import Callable


def most_that_holds(
    holds: Callable[[int], bool], first: int, resolution: float, go_on: Callable[[], bool] = lambda: True
) -> int:
    """Return the largest number tried that held, 0 where none did.

    Ends when the least that failed is less than `resolution` times the most that held, or when `go_on` says no.
    """
    held, failed, number = 0, math.inf, first
    while number > held and number < failed:
        if holds(number):
            held = number
        else:
            failed = number
        if not go_on() or failed < held * resolution:
            break
        number = _next(held, failed)
    return held


def _next(held: int, failed: float) -> int:
    if failed == math.inf:
        return 2 * held
    return int(failed) // 2 if not held else round(math.sqrt(held * failed))
