"""The residual network of Wang, Yan & Oates 2017 (arXiv:1611.06455) in the form of the PTB-XL benchmark.

Strodthoff et al. 2021, arXiv:2004.13701, call it `resnet1d_wang`: a stem at full rate, three residual blocks of two
convolutions, average and maximum over time, and a head of two layers. 473,349 parameters with the defaults.

Dimension letters: B batch · T samples · L positions · M channels · C classes
"""

from __future__ import annotations

from dataclasses import dataclass

import torch.nn.functional as F
from torch import Tensor, nn

from trainer.networks.config import NetworkConfig
from trainer.networks.layers import benchmark_hidden, conv_norm, mean_and_max


@dataclass(frozen=True)
class ResnetConfig(NetworkConfig):
    """The shape of a `resnet1d-wang`."""

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
        self.stem = conv_norm(config.n_leads, width, config.stem_kernel)
        self.blocks = nn.Sequential(*(ResidualBlock(config, stride) for stride in config.strides))
        self.hidden = benchmark_hidden(2 * width, config.d_hidden, config.head_dropout)
        self.head = nn.Linear(config.d_hidden, config.n_classes)

    def forward(self, x: Tensor) -> Tensor:
        features = self.blocks(F.relu(self.stem(x.transpose(1, 2))))  # (B, M, L)
        return self.head(self.hidden(mean_and_max(features)))  # type: ignore[no-any-return]


class ResidualBlock(nn.Module):
    """Two convolutions beside a shortcut; the first one strides."""

    def __init__(self, config: ResnetConfig, stride: int) -> None:
        super().__init__()
        width = config.channels
        self.first = conv_norm(width, width, config.first_kernel, stride)
        self.second = conv_norm(width, width, config.second_kernel)
        self.shortcut = conv_norm(width, width, 1, stride) if stride > 1 else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.second(F.relu(self.first(x))) + self.shortcut(x))
