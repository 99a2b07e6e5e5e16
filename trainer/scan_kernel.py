"""The C scan as an autograd function."""

from __future__ import annotations

import ctypes
from typing import Any

import torch
from torch import Tensor

from trainer.kernel_library import check_shapes, is_plain, library, over_batch, required, structure

STATES = (4, 8, 16, 32)
"""Numbers of states compiled in."""

GRADIENT_FIELDS = (
    "u", "dt", "a2", "b", "c", "checkpoints", "grad_y", "grad_last",
    "grad_u", "grad_dt", "grad_a2", "grad_b", "grad_c", "grad_h0",
)  # fmt: skip

LOG2_E = 1.4426950408889634
_Gradient = structure("_Gradient", GRADIENT_FIELDS)


def fits(u: Tensor, A: Tensor) -> bool:
    """Whether the kernel can take these: float32 on the CPU, a number of states compiled in, and a build at hand."""
    return is_plain(u) and A.shape[1] in STATES and library() is not None


def scan(u: Tensor, dt: Tensor, A: Tensor, b: Tensor, c: Tensor, h0: Tensor) -> tuple[Tensor, Tensor]:
    """The scan of `trainer.scan.selective_scan`; all arguments float32 on the CPU."""
    y, last = _Scan.apply(u, dt, A, b, c, h0)  # type: ignore[no-untyped-call]
    return y, last


class _Scan(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, *arguments: Tensor) -> tuple[Tensor, Tensor]:
        u, dt, A, b, c, h0 = (x.detach().contiguous() for x in arguments)
        (batch, length, inner), states = u.shape, A.shape[1]
        _check(u, dt, A, b, c, h0)
        built = required()
        segments = -(-length // built.scan_segment())
        a2 = (A * LOG2_E).t().contiguous()  # (N, D)
        start = h0.transpose(1, 2).contiguous()  # (B, N, D)
        y, last = torch.empty_like(u), torch.empty_like(start)
        checkpoints = u.new_empty(batch, segments, states, inner)
        pointers = [_pointer(x) for x in (u, dt, a2, b, c, start, y, last, checkpoints)]
        over_batch(batch, lambda i, j: built.scan_forward(states, i, j, length, inner, *pointers))
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
        built = required()
        over_batch(batch, lambda i, j: built.scan_backward(states, i, j, length, inner, ctypes.byref(packed)))
        return grad_u, grad_dt, grad_a2.sum(0).t(), grad_b, grad_c, grad_h0.transpose(1, 2)


def _check(u: Tensor, dt: Tensor, A: Tensor, b: Tensor, c: Tensor, h0: Tensor) -> None:
    (batch, length, inner), states = u.shape, A.shape[1]
    check_shapes({
        "dt": (dt, (batch, length, inner)), "A": (A, (inner, states)), "b": (b, (batch, length, states)),
        "c": (c, (batch, length, states)), "h0": (h0, (batch, inner, states)),
    })  # fmt: skip


def _pointer(tensor: Tensor) -> ctypes.c_void_p:
    return ctypes.c_void_p(tensor.data_ptr())
