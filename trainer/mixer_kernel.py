"""The C kernels around the scan as autograd functions: convolution with SiLU, and the gate."""

from __future__ import annotations

import ctypes
from typing import Any

import torch
from torch import Tensor

from trainer.kernel_library import check_shapes, is_plain, library, over_batch, required, structure

_Convolution = structure(
    "_Convolution", ("x", "tail", "weight", "bias", "grad_u", "u", "grad_x", "grad_tail", "grad_weight", "grad_bias")
)
_Gating = structure(
    "_Gating", ("y", "u", "skip", "gate", "grad_out", "out", "grad_y", "grad_u", "grad_skip", "grad_gate")
)


def fits(x: Tensor, taps: int) -> bool:
    """Whether the kernels can take these: float32 on the CPU, not too many taps, and a build at hand."""
    return is_plain(x) and library() is not None and 2 <= taps <= required().mixer_most_taps()


def convolve(x: Tensor, tail: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """The convolution of `trainer.mixer.convolve`; all arguments float32 on the CPU."""
    return _Convolve.apply(x, tail, weight, bias)  # type: ignore[no-any-return, no-untyped-call]


def gate(y: Tensor, u: Tensor, skip: Tensor, gates: Tensor) -> Tensor:
    """The gate of `trainer.mixer.gate`; all arguments float32 on the CPU."""
    return _Gate.apply(y, u, skip, gates)  # type: ignore[no-any-return, no-untyped-call]


def _packed(kind: type[ctypes.Structure], **tensors: Tensor) -> Any:
    return ctypes.byref(kind(**{name: tensor.data_ptr() for name, tensor in tensors.items()}))


class _Convolve(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, *arguments: Tensor) -> Tensor:
        x, tail, weight, bias = (each.detach() for each in arguments)
        (batch, length, inner), taps = x.shape, weight.shape[2]
        check_shapes({
            "tail": (tail, (batch, inner, taps - 1)), "weight": (weight, (inner, 1, taps)), "bias": (bias, (inner,)),
        })  # fmt: skip
        x, tail = x.contiguous(), tail.transpose(1, 2).contiguous()  # (B, L, D), (B, K-1, D)
        weight, bias = weight[:, 0].t().contiguous(), bias.contiguous()  # (K, D), (D)
        u = torch.empty_like(x)
        packed = _packed(_Convolution, x=x, tail=tail, weight=weight, bias=bias, u=u)
        over_batch(batch, lambda i, j: required().mixer_convolve(taps, i, j, length, inner, packed))
        ctx.save_for_backward(x, tail, weight, bias)
        return u

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, ...]:
        (x, tail, weight, bias), grad_u = ctx.saved_tensors, gradients[0].contiguous()
        (batch, length, inner), taps = x.shape, weight.shape[0]
        grad_x, grad_tail = torch.empty_like(x), torch.empty_like(tail)
        grad_weight, grad_bias = x.new_empty(batch, taps, inner), x.new_empty(batch, inner)
        packed = _packed(
            _Convolution, x=x, tail=tail, weight=weight, bias=bias, grad_u=grad_u, grad_x=grad_x, grad_tail=grad_tail,
            grad_weight=grad_weight, grad_bias=grad_bias,
        )  # fmt: skip
        over_batch(batch, lambda i, j: required().mixer_convolve_back(taps, i, j, length, inner, packed))
        return grad_x, grad_tail.transpose(1, 2), grad_weight.sum(0).t()[:, None], grad_bias.sum(0)


class _Gate(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, *arguments: Tensor) -> Tensor:
        y, u, skip, gates = (each.detach().contiguous() for each in arguments)
        batch, length, inner = shape = tuple(y.shape)
        check_shapes({"u": (u, shape), "skip": (skip, (inner,)), "gates": (gates, shape)})
        out = torch.empty_like(y)
        packed = _packed(_Gating, y=y, u=u, skip=skip, gate=gates, out=out)
        over_batch(batch, lambda i, j: required().mixer_gate(i, j, length, inner, packed))
        ctx.save_for_backward(y, u, skip, gates)
        return out

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, ...]:
        (y, u, skip, gates), grad_out = ctx.saved_tensors, gradients[0].contiguous()
        batch, length, inner = y.shape
        grad_y, grad_u, grad_gate = (torch.empty_like(y) for _ in range(3))
        grad_skip = y.new_empty(batch, inner)
        packed = _packed(
            _Gating, y=y, u=u, skip=skip, gate=gates, grad_out=grad_out, grad_y=grad_y, grad_u=grad_u,
            grad_skip=grad_skip, grad_gate=grad_gate,
        )  # fmt: skip
        over_batch(batch, lambda i, j: required().mixer_gate_back(i, j, length, inner, packed))
        return grad_y, grad_u, grad_skip.sum(0), grad_gate
