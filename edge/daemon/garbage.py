"""Keeps Python's collector of cycles from looking through all streams again and again, while nothing else can run.

Thousands of streams are hundreds of thousands of objects that stay: a full collection then takes a tenth of a second
and finds nothing, since a stream that is given up is freed at once. What has stayed for a while is therefore set aside.
"""

from __future__ import annotations

import asyncio
import gc

SETTLE_EVERY_S = 5.0
FULL_EVERY = 720
"""So many times what is not new is set aside unseen; then all is looked through once, for the rare cycle among it."""

NEW = 1
"""The older one of the generations that are looked through often."""


async def settle_garbage() -> None:
    """Collect what is new and set the rest aside, again and again, until cancelled. For the owner of the process."""
    settled = 0
    while True:
        await asyncio.sleep(SETTLE_EVERY_S)
        settled += 1
        if settled % FULL_EVERY == 0:
            gc.unfreeze()
            gc.collect()
        gc.collect(NEW)
        gc.freeze()
