"""InceptionTime as the PTB-XL benchmark has it: convolutions of three lengths side by side, six blocks deep.

Fawaz et al. 2019, arXiv:1909.04939, at one resolution from end to end; kernels of 39, 19 and 9 samples and the
benchmark's head (Strodthoff et al. 2021, arXiv:2004.13701). 507,653 trainable parameters for five classes.

Dimension letters: B batch · T samples · M channels · L positions · C classes
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from trainer.networks.config import NetworkConfig
from trainer.networks.layers import benchmark_hidden, conv_norm, mean_and_max, same_conv

BLOCKS_PER_SHORTCUT = 3


@dataclass(frozen=True)
class InceptionConfig(NetworkConfig):
    """The shape of an `inception1d`."""

    groups: int = 2
    """Of three blocks and a shortcut around them each."""
    filters: int = 32
    """Channels of each of a block's branches: one per kernel, and one behind maximum pooling."""
    bottleneck: int = 32
    kernels: tuple[int, ...] = (39, 19, 9)
    d_hidden: int = 128
    head_dropout: float = 0.5

    @property
    def width(self) -> int:
        """Channels of a block's output."""
        return self.filters * (len(self.kernels) + 1)


class Inception(nn.Module):
    """Samples (B, T, leads) → logits (B, C)."""

    def __init__(self, config: InceptionConfig) -> None:
        super().__init__()
        self.config = config
        inputs = [config.n_leads, *[config.width] * (config.groups - 1)]
        self.groups = nn.Sequential(*(InceptionGroup(config, width) for width in inputs))
        self.hidden = benchmark_hidden(2 * config.width, config.d_hidden, config.head_dropout)
        self.head = nn.Linear(config.d_hidden, config.n_classes)

    def forward(self, x: Tensor) -> Tensor:
        features = self.groups(x.transpose(1, 2))  # (B, M, L)
        return self.head(self.hidden(mean_and_max(features)))  # type: ignore[no-any-return]


class InceptionGroup(nn.Module):
    """Three blocks beside a shortcut."""

    def __init__(self, config: InceptionConfig, inputs: int) -> None:
        super().__init__()
        widths = [inputs, *[config.width] * (BLOCKS_PER_SHORTCUT - 1)]
        self.blocks = nn.Sequential(*(InceptionBlock(config, width) for width in widths))
        self.shortcut = conv_norm(inputs, config.width, 1)

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.blocks(x) + self.shortcut(x))


class InceptionBlock(nn.Module):
    """Convolutions of several lengths behind one bottleneck, and a pooled branch of its own."""

    def __init__(self, config: InceptionConfig, inputs: int) -> None:
        super().__init__()
        self.bottleneck = same_conv(inputs, config.bottleneck, 1)
        self.convolutions = nn.ModuleList(
            same_conv(config.bottleneck, config.filters, kernel) for kernel in config.kernels
        )
        self.pooled = nn.Sequential(nn.MaxPool1d(3, stride=1, padding=1), same_conv(inputs, config.filters, 1))
        self.norm = nn.BatchNorm1d(config.width)

    def forward(self, x: Tensor) -> Tensor:
        narrow = self.bottleneck(x)
        branches = [*(convolve(narrow) for convolve in self.convolutions), self.pooled(x)]
        return F.relu(self.norm(torch.cat(branches, 1)))
