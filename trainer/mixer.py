"""What surrounds the scan in a Mamba block, by the fastest implementation there is: C for float32 on the CPU, PyTorch.

Letters in shapes: B batch, L length, D d_inner, K d_conv.
"""

from __future__ import annotations

import os

import torch
import torch.nn.functional as F
from torch import Tensor

from trainer import mixer_kernel
from trainer.scan import CHOICE_VARIABLE


def convolve(x: Tensor, tail: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """Causal depthwise convolution of x (B, L, D) and SiLU; tail (B, D, K-1) is what came before, weight (D, 1, K)."""
    if is_in_c(x, weight.shape[2]):
        return mixer_kernel.convolve(x, tail, weight, bias)
    padded = torch.cat([tail, x.transpose(1, 2)], dim=2)  # (B, D, K-1+L)
    return F.silu(F.conv1d(padded, weight, bias, groups=x.shape[2])).transpose(1, 2).contiguous()


def gate(y: Tensor, u: Tensor, skip: Tensor, gates: Tensor) -> Tensor:
    """(y + skip · u) · silu(gates), all (B, L, D) but skip (D)."""
    if is_in_c(y, 2) and _are_alike(y, u, gates):
        return mixer_kernel.gate(y, u, skip, gates)
    return (y + u * skip) * F.silu(gates)


def _are_alike(*tensors: Tensor) -> bool:
    """Whether all are of one type: in mixed precision what the scan gives is not."""
    return len({tensor.dtype for tensor in tensors}) == 1


def is_in_c(x: Tensor, taps: int) -> bool:
    """Whether C computes these."""
    wanted = os.environ.get(CHOICE_VARIABLE) != "torch"
    return wanted and not torch.is_autocast_enabled(x.device.type) and mixer_kernel.fits(x, taps)
