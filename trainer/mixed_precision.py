"""bfloat16 where the processor multiplies it; where it does not, PyTorch's detour takes twice as long as float32."""

from __future__ import annotations

from functools import cache
from typing import Literal

import torch

Precision = Literal["float32", "bfloat16"]

MULTIPLIES_BFLOAT16 = ("avx512_bf16", "amx_bf16", "bf16")
"""As PyTorch names what a processor can do; the last is ARM's."""


@cache
def multiplies_bfloat16(device_type: str) -> bool:
    """Whether a kind of device, "cpu" or "cuda", multiplies bfloat16 by itself.

    Where PyTorch is too old to tell, it is taken to.
    """
    if device_type == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    capabilities = getattr(torch.cpu, "get_capabilities", None)
    return capabilities is None or any(capabilities().get(name, False) for name in MULTIPLIES_BFLOAT16)


def computed_in(precision: Precision, device_type: str) -> Precision:
    """Return what a network is computed in on a device where `precision` is asked for."""
    return precision if precision == "float32" or multiplies_bfloat16(device_type) else "float32"


def mixed_precision(precision: Precision, device_type: str) -> torch.autocast:
    """Return the context in which a network is run; losses are computed outside of it, in float32."""
    return torch.autocast(device_type, torch.bfloat16, enabled=computed_in(precision, device_type) == "bfloat16")
