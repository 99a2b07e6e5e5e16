"""A network that reads short crops, made to read a whole window: its logits over half-overlapping crops, averaged.

Where such crops do not fill the window, a last one ends with it: the newest samples are always read.

The leaders of the PTB-XL benchmark read crops at test time, too, and take the highest (Strodthoff et al. 2021). As one
module, so that what is evaluated is what is exported. And the same hop by hop, as a device does with it.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from edge.runtime.manifest import WINDOW
from trainer.model import State


class Windowed(nn.Module):
    """Samples (B, window, leads) → logits (B, C)."""

    def __init__(self, network: nn.Module, crop_samples: int) -> None:
        super().__init__()
        self.network = network
        self.crop_samples = crop_samples

    def forward(self, x: Tensor) -> Tensor:
        if x.shape[1] <= self.crop_samples:
            return self.network(x)  # type: ignore[no-any-return]
        crops = self._crops(x)
        logits = self.network(crops.flatten(0, 1))
        return torch.mean(logits.unflatten(0, crops.shape[:2]), 1)

    def _crops(self, x: Tensor) -> Tensor:
        """Samples (B, window, leads) → (B, crops, crop, leads)."""
        step = max(1, self.crop_samples // 2)
        crops = x.unfold(1, self.crop_samples, step).transpose(2, 3)
        if (x.shape[1] - self.crop_samples) % step == 0:
            return crops
        return torch.cat([crops, x[:, None, -self.crop_samples :]], 1)


class Sliding(nn.Module):
    """A windowed network along a stream, called like `trainer.model.EcgMamba`: its state is the window."""

    def __init__(self, windowed: Windowed, window_samples: int, n_leads: int) -> None:
        super().__init__()
        self.windowed = windowed
        self.shape = (window_samples, n_leads)

    def initial_state(self, batch: int) -> State:
        """Return the state of `batch` streams that have seen nothing: silence."""
        return {WINDOW: torch.zeros(batch, *self.shape)}

    def forward(self, x: Tensor, state: State | None = None) -> tuple[Tensor, State]:
        """x (B, T, leads) → logits (B, C) of the window that ends with x, and the state after."""
        before = (self.initial_state(len(x)) if state is None else state)[WINDOW]
        window = torch.cat([before, x], 1)[:, -self.shape[0] :]
        return self.windowed(window), {WINDOW: window}
