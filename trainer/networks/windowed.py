"""A network that reads short crops, made to read a whole window: its logits over half-overlapping crops, averaged.

What the leaders of the PTB-XL benchmark do at test time (Strodthoff et al. 2021), as one module, so that what is
evaluated is what is exported.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn


class Windowed(nn.Module):
    """Samples (B, window, leads) → logits (B, C)."""

    def __init__(self, network: nn.Module, crop_samples: int) -> None:
        super().__init__()
        self.network = network
        self.crop_samples = crop_samples

    def forward(self, x: Tensor) -> Tensor:
        if x.shape[1] <= self.crop_samples:
            return self.network(x)  # type: ignore[no-any-return]
        step = max(1, self.crop_samples // 2)
        crops = x.unfold(1, self.crop_samples, step).movedim(-1, 2)  # (B, crops, crop, leads)
        logits = self.network(crops.flatten(0, 1))
        return torch.mean(logits.unflatten(0, crops.shape[:2]), 1)
