"""The residual network of ACS-BenchWork: sixteen residual blocks of one convolution each, maximum over time.

2,256,965 trainable parameters for five classes and twelve leads. Convolutions that batch normalisation follows have no
bias, which the original's have and which normalisation takes out again.

Dimension letters: B batch · T samples · M channels · L positions · C classes
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

import torch.nn.functional as F
from torch import Tensor, nn

from trainer.networks.config import NetworkConfig
from trainer.networks.layers import conv_norm, conv_norm_relu


@dataclass(frozen=True)
class Resnet18Config(NetworkConfig):
    """The shape of a `resnet18-1d`."""

    channels: int = 32
    """Of the stem and the first stage; each further stage has twice as many."""
    stem_kernel: int = 15
    kernel: int = 7
    strides: tuple[int, ...] = (1, 2, 2, 1)
    """One stage each."""
    blocks_per_stage: int = 4
    block_dropout: float = 0.5
    d_hidden: int = 256
    head_dropout: float = 0.5


class Resnet18(nn.Module):
    """Samples (B, T, leads) → logits (B, C)."""

    def __init__(self, config: Resnet18Config) -> None:
        super().__init__()
        self.config = config
        widths = [config.channels, *(config.channels * 2**stage for stage in range(len(config.strides)))]
        self.stem = conv_norm_relu(config.n_leads, config.channels, config.stem_kernel, 2)
        self.stem.append(nn.MaxPool1d(3, stride=2, padding=1))
        stages = zip(pairwise(widths), config.strides, strict=True)
        self.stages = nn.Sequential(*(self._stage(*width, stride) for width, stride in stages))
        self.hidden = nn.Sequential(
            nn.Linear(widths[-1], config.d_hidden, bias=False), nn.BatchNorm1d(config.d_hidden),
            nn.Dropout(config.head_dropout), nn.ReLU(),
        )  # fmt: skip
        self.head = nn.Linear(config.d_hidden, config.n_classes)

    def _stage(self, inputs: int, outputs: int, stride: int) -> nn.Sequential:
        config = self.config
        first = OneConvolutionBlock(inputs, outputs, config.kernel, stride, config.block_dropout)
        rest = (
            OneConvolutionBlock(outputs, outputs, config.kernel, 1, config.block_dropout)
            for _ in range(config.blocks_per_stage - 1)
        )
        return nn.Sequential(first, *rest)

    def forward(self, x: Tensor) -> Tensor:
        features = self.stages(self.stem(x.transpose(1, 2)))  # (B, M, L)
        return self.head(self.hidden(features.amax(2)))  # type: ignore[no-any-return]


class OneConvolutionBlock(nn.Module):
    """One convolution beside a shortcut, with dropout on its own branch."""

    def __init__(self, inputs: int, outputs: int, kernel: int, stride: int, dropout: float) -> None:
        super().__init__()
        self.branch = conv_norm_relu(inputs, outputs, kernel, stride).append(nn.Dropout(dropout))
        same = stride == 1 and inputs == outputs
        self.shortcut = nn.Identity() if same else conv_norm(inputs, outputs, 1, stride)

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.branch(x) + self.shortcut(x))
