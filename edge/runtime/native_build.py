"""Which builds of the native kernel this processor runs: one C source, compiled once per width of its vectors."""

from __future__ import annotations

import functools
import importlib
import os
import platform
from collections.abc import Mapping
from types import ModuleType

from edge.errors import RuntimeUnavailableError

NAME = "native"
WIDTH_VARIABLE = "ECG_EDGE_NATIVE_WIDTH"
"""Environment variable that names a build to use instead of the widest."""

BASE = {"x86_64": "sse2", "amd64": "sse2", "aarch64": "neon", "arm64": "neon"}.get(
    platform.machine().lower(), "portable"
)
MODULES = {"avx512": "edge.runtime._hop_avx512", "avx2": "edge.runtime._hop_avx2", BASE: "edge.runtime._hop_base"}
"""Width → extension module, the widest first."""

LEVELS = {"avx512": 2, "avx2": 1, BASE: 0}
"""What `cpu_level` must be at least."""

NOT_BUILT = "the C kernel was not built at installation; install gcc and python3-dev, then ecg-edge again"


def native_module(width: str | None = None) -> tuple[str, ModuleType]:
    """Return a build and the name of its width: the one asked for, by argument or environment, else the widest.

    Raises RuntimeUnavailableError when none was built or the one asked for does not run here.
    """
    builds = runnable_builds()
    if not builds:
        raise RuntimeUnavailableError(NAME, NOT_BUILT)
    wanted = width or os.environ.get(WIDTH_VARIABLE) or next(iter(builds))
    if wanted not in builds:
        raise RuntimeUnavailableError(NAME, f"there is no build for {wanted} here; there are {', '.join(builds)}")
    return wanted, builds[wanted]


def runnable_builds() -> Mapping[str, ModuleType]:
    """Return every build that was made and that this processor runs, width → module, the widest first."""
    base = _imported(MODULES[BASE])
    if base is None:
        return {}
    level = base.cpu_level()
    found = {width: _imported(name) for width, name in MODULES.items() if LEVELS[width] <= level}
    return {width: module for width, module in found.items() if module is not None}


@functools.cache
def _imported(name: str) -> ModuleType | None:
    try:
        return importlib.import_module(name)
    except ImportError:
        return None
