"""The signal path's C kernels where they were built; without them NumPy computes the same bits, more slowly."""

from __future__ import annotations

import functools
import importlib
from types import ModuleType

MAX_LEADS = 16
"""As in kernels/frontend.c."""


@functools.cache
def library() -> ModuleType | None:
    """Return the compiled kernels, None where the package was installed without a compiler."""
    try:
        return importlib.import_module("edge.signal._frontend")
    except ImportError:
        return None


def library_for(leads: int) -> ModuleType | None:
    """Return the compiled kernels if they take so many leads."""
    return library() if leads <= MAX_LEADS else None
