"""The 3×4 print of an ECG as three signals: what is left of twelve leads when all there is is paper.

A print has four columns of three leads, a quarter of the time each: I II III, then aVR aVL aVF, V1-V3 and V4-V6. Its
rows, read from left to right, are three signals as long as the recording; of ten seconds each lead keeps 2.5.

Dimension letters: B batch · T samples · C classes
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from trainer.networks.config import NetworkConfig

ROWS, COLUMNS = 3, 4


class Printed(nn.Module):
    """Samples of twelve leads in standard order (B, T, 12) → logits (B, C) of a network that reads the print's rows."""

    def __init__(self, config: NetworkConfig, network: nn.Module) -> None:
        super().__init__()
        self.config = config
        self.network = network

    def forward(self, x: Tensor) -> Tensor:
        return self.network(printed_rows(x))  # type: ignore[no-any-return]


def printed_rows(x: Tensor) -> Tensor:
    """Samples (B, T, 12) → rows (B, T', 3), T' the largest multiple of four up to T."""
    size = x.shape[1] // COLUMNS
    columns = [x[:, at * size : (at + 1) * size, at * ROWS : (at + 1) * ROWS] for at in range(COLUMNS)]
    return torch.cat(columns, 1)
