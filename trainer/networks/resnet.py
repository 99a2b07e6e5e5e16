"""The residual network of Wang, Yan & Oates 2017 (arXiv:1611.06455) in the form of the PTB-XL benchmark.

Strodthoff et al. 2021, arXiv:2004.13701, call it `resnet1d_wang`: a stem at full rate, three residual blocks of two
convolutions, average and maximum over time, and a head of two layers. 473,349 parameters with the defaults.

Dimension letters: B batch · T samples · L positions · M channels · C classes
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn


@dataclass(frozen=True)
class ResnetConfig:
    """The shape of a `resnet1d-wang`."""

    n_leads: int = 12
    n_classes: int = 5
    channels: int = 128
    stem_kernel: int = 7
    first_kernel: int = 5
    second_kernel: int = 3
    strides: tuple[int, ...] = (1, 2, 2)
    """One block each."""
    d_hidden: int = 128
    head_dropout: float = 0.5


class Resnet(nn.Module):
    """Samples (B, T, leads) → logits (B, C)."""

    def __init__(self, config: ResnetConfig) -> None:
        super().__init__()
        self.config = config
        width = config.channels
        self.stem = nn.Sequential(same_conv(config.n_leads, width, config.stem_kernel), nn.BatchNorm1d(width))
        self.blocks = nn.Sequential(*(ResidualBlock(config, stride) for stride in config.strides))
        self.hidden = nn.Sequential(
            nn.BatchNorm1d(2 * width), nn.Dropout(config.head_dropout / 2), nn.Linear(2 * width, config.d_hidden),
            nn.ReLU(), nn.BatchNorm1d(config.d_hidden), nn.Dropout(config.head_dropout),
        )  # fmt: skip
        self.head = nn.Linear(config.d_hidden, config.n_classes)

    def forward(self, x: Tensor) -> Tensor:
        features = self.blocks(F.relu(self.stem(x.transpose(1, 2))))  # (B, M, L)
        pooled = torch.cat([features.mean(2), features.amax(2)], 1)  # (B, 2M)
        return self.head(self.hidden(pooled))  # type: ignore[no-any-return]


class ResidualBlock(nn.Module):
    """Two convolutions beside a shortcut; the first one strides."""

    def __init__(self, config: ResnetConfig, stride: int) -> None:
        super().__init__()
        width = config.channels
        self.first = nn.Sequential(same_conv(width, width, config.first_kernel, stride), nn.BatchNorm1d(width))
        self.second = nn.Sequential(same_conv(width, width, config.second_kernel), nn.BatchNorm1d(width))
        shorten = nn.Sequential(same_conv(width, width, 1, stride), nn.BatchNorm1d(width))
        self.shortcut = shorten if stride > 1 else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.second(F.relu(self.first(x))) + self.shortcut(x))


def same_conv(inputs: int, outputs: int, kernel: int, stride: int = 1) -> nn.Conv1d:
    """Return a convolution without bias whose output is as long as its input, but for the stride; odd kernels."""
    return nn.Conv1d(inputs, outputs, kernel, stride, padding=(kernel - 1) // 2, bias=False)
