"""The selective scan, from an initial state to a final state, by the fastest implementation there is.

    h_t = exp(dt_t A) h_{t-1} + dt_t u_t b_t        y_t = c_t · h_t          (Gu & Dao 2023, eq. 2)

Letters in shapes: B batch, L length, D d_inner, N d_state. All three implementations take an initial state and are
differentiable in every argument: plain PyTorch (the reference), a C kernel for float32 on the CPU, and mamba_ssm's
CUDA kernel.
"""

from __future__ import annotations

import functools
import importlib
import logging
import os
from collections.abc import Callable

import torch
from torch import Tensor

from trainer import scan_kernel
from trainer.kernel_library import library

Scan = Callable[[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor], tuple[Tensor, Tensor]]

CHOICE_VARIABLE = "ECG_EDGE_SCAN"
log = logging.getLogger(__name__)


def selective_scan(u: Tensor, dt: Tensor, A: Tensor, b: Tensor, c: Tensor, h0: Tensor) -> tuple[Tensor, Tensor]:
    """Scan u, dt (B, L, D) with A (D, N), b, c (B, L, N) from h0 (B, D, N); return y (B, L, D) and h_L (B, D, N).

    In mixed precision too it is computed in float32: rounding would add up from step to step.
    """
    if not torch.is_autocast_enabled(u.device.type):
        return _choose(u, A)(u, dt, A, b, c, h0)
    with torch.autocast(u.device.type, enabled=False):
        u, dt, A, b, c, h0 = (x.float() for x in (u, dt, A, b, c, h0))
        return _choose(u, A)(u, dt, A, b, c, h0)


def scan_reference(u: Tensor, dt: Tensor, A: Tensor, b: Tensor, c: Tensor, h0: Tensor) -> tuple[Tensor, Tensor]:
    """The definition, step by step, in any type on any device.

    Unbinding once keeps the backward pass linear in L; indexing b[:, t] would make it quadratic.
    """
    h, ys = h0, []
    steps = zip(dt.unbind(1), (dt * u).unbind(1), b.unbind(1), c.unbind(1), strict=True)
    for dt_t, input_t, b_t, c_t in steps:
        h = torch.exp(dt_t[..., None] * A) * h + input_t[..., None] * b_t[:, None]  # (B, D, N)
        ys.append((h * c_t[:, None]).sum(-1))  # (B, D)
    return torch.stack(ys, 1), h


def scan_cuda(u: Tensor, dt: Tensor, A: Tensor, b: Tensor, c: Tensor, h0: Tensor) -> tuple[Tensor, Tensor]:
    """mamba_ssm's kernel, which starts from zero; the initial state's share is added: the scan is linear in it."""
    kernel = _mamba_ssm_kernel()
    assert kernel is not None
    wide = [x.transpose(1, 2).contiguous() for x in (u, dt, b, c)]  # (B, D or N, L)
    y, last = kernel(wide[0], wide[1], A, wide[2], wide[3], return_last_state=True)
    carried = torch.exp(dt.cumsum(1)[..., None] * A) * h0[:, None]  # (B, L, D, N), at most |h0|
    return y.transpose(1, 2) + torch.einsum("bldn,bln->bld", carried, c), last + carried[:, -1]


def implementation_name() -> str:
    """Return which implementation serves float32 on the CPU here: C or PyTorch."""
    return "C" if os.environ.get(CHOICE_VARIABLE) != "torch" and library() is not None else "PyTorch"


def _choose(u: Tensor, A: Tensor) -> Scan:
    wanted = os.environ.get(CHOICE_VARIABLE, "auto")
    if wanted == "torch":
        return scan_reference
    if u.is_cuda:
        return scan_cuda if _mamba_ssm_kernel() is not None else scan_reference
    return scan_kernel.scan if scan_kernel.fits(u, A) else scan_reference


@functools.cache
def _mamba_ssm_kernel() -> Callable[..., tuple[Tensor, Tensor]] | None:
    try:
        module = importlib.import_module("mamba_ssm.ops.selective_scan_interface")
    except ImportError:
        log.warning("mamba_ssm is not installed: scanning step by step on the GPU, which is slow")
        return None
    return module.selective_scan_fn  # type: ignore[no-any-return]
