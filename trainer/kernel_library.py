"""The C kernels of training: loads the build that fits this processor, and spreads a batch over threads."""

from __future__ import annotations

import ctypes
import functools
import importlib
import logging
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise

import torch
from torch import Tensor

BUILDS = ((4, "trainer._scan_v4"), (3, "trainer._scan_v3"), (0, "trainer._scan_base"))
log = logging.getLogger(__name__)


@functools.cache
def library() -> ctypes.CDLL | None:
    """Return the widest build this processor runs, None (said once) when the package was installed without."""
    base = load("trainer._scan_base")
    if base is None:
        log.warning("the C scan was not built (no compiler at installation): training will be many times slower")
        return None
    level = base.cpu_level()
    return next((built for needs, name in BUILDS if needs <= level and (built := load(name))), base)


def load(name: str) -> ctypes.CDLL | None:
    """Load one build by its module name, None when it is not there."""
    try:
        module = importlib.import_module(name)
    except ImportError:
        return None
    return ctypes.CDLL(module.__file__)


def required() -> ctypes.CDLL:
    """Return the build; raises RuntimeError where there is none."""
    built = library()
    if built is None:
        raise RuntimeError("the C kernels of training were not built")
    return built


def is_plain(tensor: Tensor) -> bool:
    """Whether the kernels can take a tensor: float32 on the CPU."""
    return tensor.device.type == "cpu" and tensor.dtype == torch.float32


def check_shapes(expected: dict[str, tuple[Tensor, tuple[int, ...]]]) -> None:
    """Refuse shapes and types that a kernel would read past the end of; raises ValueError."""
    for name, (tensor, shape) in expected.items():
        if tuple(tensor.shape) != shape or tensor.dtype != torch.float32:
            raise ValueError(f"{name} is {tuple(tensor.shape)} {tensor.dtype}, expected {shape} torch.float32")


def structure(name: str, fields: tuple[str, ...]) -> type[ctypes.Structure]:
    """Return a C structure of pointers in this order."""
    return type(name, (ctypes.Structure,), {"_fields_": [(field, ctypes.c_void_p) for field in fields]})


def over_batch(batch: int, call: Callable[[int, int], int]) -> None:
    """Run call(first, last) over parts of the batch, one per torch thread; ctypes lets go of the interpreter lock."""
    parts = max(1, min(torch.get_num_threads(), batch))
    edges = [batch * k // parts for k in range(parts + 1)]
    waiting = [_pool(parts).submit(call, i, j) for i, j in pairwise(edges[1:])]
    statuses = [call(edges[0], edges[1]), *(task.result() for task in waiting)]
    if any(statuses):
        raise MemoryError("a C kernel of training ran out of memory")


@functools.cache
def _pool(threads: int) -> ThreadPoolExecutor:
    return ThreadPoolExecutor(threads, thread_name_prefix="scan")
