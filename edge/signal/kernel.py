"""The front-end's C kernel where it was built; without it NumPy computes the same, to the last bit, more slowly."""

from __future__ import annotations

import ctypes
import functools
import importlib

MAX_LEADS = 16
"""As in kernels/frontend.c."""

_POINTER, _LONG = ctypes.c_void_p, ctypes.c_long


@functools.cache
def library() -> ctypes.CDLL | None:
    """Return the compiled kernel, None where the package was installed without a compiler."""
    try:
        module = importlib.import_module("edge.signal._frontend")
    except ImportError:
        return None
    loaded = ctypes.CDLL(module.__file__)
    loaded.filter_sections.argtypes = [_POINTER, _LONG, _POINTER, _LONG, _LONG, _LONG, _POINTER]
    loaded.resample.argtypes = [_POINTER, _LONG, _LONG, _LONG, _POINTER, _LONG, _LONG, _LONG, _POINTER]
    loaded.filter_sections.restype = loaded.resample.restype = None
    return loaded
