"""The C scan as an autograd function: loads the build that fits this processor, spreads the batch over threads."""

from __future__ import annotations

import ctypes
import functools
import importlib
import logging
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor

STATES = (4, 8, 16, 32)
"""Numbers of states compiled in."""

GRADIENT_FIELDS = (
    "u", "dt", "a2", "b", "c", "checkpoints", "grad_y", "grad_last",
    "grad_u", "grad_dt", "grad_a2", "grad_b", "grad_c", "grad_h0",
)  # fmt: skip

LOG2_E = 1.4426950408889634
BUILDS = ((4, "trainer._scan_v4"), (3, "trainer._scan_v3"), (0, "trainer._scan_base"))
log = logging.getLogger(__name__)


class _Gradient(ctypes.Structure):
    """The arguments of the backward pass, in the order of `scan_gradient` in scan.c."""

    _fields_ = [(name, ctypes.c_void_p) for name in GRADIENT_FIELDS]


def fits(u: Tensor, A: Tensor) -> bool:
    """Whether the kernel can take these: float32 on the CPU, a number of states compiled in, and a build at hand."""
    return u.device.type == "cpu" and u.dtype == torch.float32 and A.shape[1] in STATES and library() is not None


def scan(u: Tensor, dt: Tensor, A: Tensor, b: Tensor, c: Tensor, h0: Tensor) -> tuple[Tensor, Tensor]:
    """The scan of `trainer.scan.selective_scan`; all arguments float32 on the CPU."""
    y, last = _Scan.apply(u, dt, A, b, c, h0)  # type: ignore[no-untyped-call]
    return y, last


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


class _Scan(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, *arguments: Tensor) -> tuple[Tensor, Tensor]:
        u, dt, A, b, c, h0 = (x.detach().contiguous() for x in arguments)
        (batch, length, inner), states = u.shape, A.shape[1]
        _check(u, dt, A, b, c, h0)
        built = _required()
        segments = -(-length // built.scan_segment())
        a2 = (A * LOG2_E).t().contiguous()  # (N, D)
        start = h0.transpose(1, 2).contiguous()  # (B, N, D)
        y, last = torch.empty_like(u), torch.empty_like(start)
        checkpoints = u.new_empty(batch, segments, states, inner)
        pointers = [_pointer(x) for x in (u, dt, a2, b, c, start, y, last, checkpoints)]
        _over_batch(batch, lambda i, j: built.scan_forward(states, i, j, length, inner, *pointers))
        ctx.save_for_backward(u, dt, a2, b, c, checkpoints)
        return y, last.transpose(1, 2)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, ...]:
        u, dt, a2, b, c, checkpoints = ctx.saved_tensors
        grad_y, grad_last = gradients[0].contiguous(), gradients[1].transpose(1, 2).contiguous()
        (batch, length, inner), states = u.shape, a2.shape[0]
        grad_u, grad_dt, grad_b, grad_c = (torch.empty_like(x) for x in (u, dt, b, c))
        grad_a2, grad_h0 = torch.empty_like(grad_last), torch.empty_like(grad_last)  # (B, N, D)
        tensors = (u, dt, a2, b, c, checkpoints, grad_y, grad_last, grad_u, grad_dt, grad_a2, grad_b, grad_c, grad_h0)
        packed = _Gradient(*(x.data_ptr() for x in tensors))
        built = _required()
        _over_batch(batch, lambda i, j: built.scan_backward(states, i, j, length, inner, ctypes.byref(packed)))
        return grad_u, grad_dt, grad_a2.sum(0).t(), grad_b, grad_c, grad_h0.transpose(1, 2)


def _check(u: Tensor, dt: Tensor, A: Tensor, b: Tensor, c: Tensor, h0: Tensor) -> None:
    """Refuse shapes and types the kernel would read past the end of."""
    (batch, length, inner), states = u.shape, A.shape[1]
    expected = {
        "dt": (dt, (batch, length, inner)), "A": (A, (inner, states)), "b": (b, (batch, length, states)),
        "c": (c, (batch, length, states)), "h0": (h0, (batch, inner, states)),
    }  # fmt: skip
    for name, (tensor, shape) in expected.items():
        if tuple(tensor.shape) != shape or tensor.dtype != torch.float32:
            raise ValueError(f"{name} is {tuple(tensor.shape)} {tensor.dtype}, expected {shape} torch.float32")


def _required() -> ctypes.CDLL:
    built = library()
    if built is None:
        raise RuntimeError("the C scan was not built")
    return built


def _pointer(tensor: Tensor) -> ctypes.c_void_p:
    return ctypes.c_void_p(tensor.data_ptr())


def _over_batch(batch: int, call: Any) -> None:
    """Run call(first, last) over parts of the batch, one per torch thread; ctypes lets go of the interpreter lock."""
    parts = max(1, min(torch.get_num_threads(), batch))
    edges = [batch * k // parts for k in range(parts + 1)]
    waiting = [_pool(parts).submit(call, i, j) for i, j in pairwise(edges[1:])]
    statuses = [call(edges[0], edges[1]), *(task.result() for task in waiting)]
    if any(statuses):
        raise MemoryError("the C scan ran out of memory")


@functools.cache
def _pool(threads: int) -> ThreadPoolExecutor:
    return ThreadPoolExecutor(threads, thread_name_prefix="scan")
