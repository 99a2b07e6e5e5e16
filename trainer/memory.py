"""Memory for training: what one step frees, the next one uses.

glibc gives large blocks back to the system at once, and the system clears each page again when the next step asks for
it. On two cores that was up to a quarter of a training's time. What is kept falls to pieces in time, though, and new
blocks no longer fit between old ones: so all that is free goes back after each epoch.
"""

from __future__ import annotations

import ctypes

# The parameters of mallopt(3), from malloc.h.
M_TRIM_THRESHOLD = -1
M_MMAP_MAX = -4
NEVER = -1


def keep_freed_memory() -> bool:
    """Let this process keep what it frees; False where the C library is not glibc, and nothing has changed."""
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is None:
        return False
    return bool(mallopt(M_MMAP_MAX, 0) and mallopt(M_TRIM_THRESHOLD, NEVER))


def give_back_freed_memory() -> bool:
    """Give back to the system what this process has freed; False where there was nothing, or no glibc."""
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    return trim is not None and bool(trim(0))
