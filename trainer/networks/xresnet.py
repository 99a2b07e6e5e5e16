"""xresnet1d101: the residual network of 101 layers of the PTB-XL benchmark, one-dimensional and narrow.

Bottleneck blocks of a quarter of the width (He et al. 2015) with the tweaks of He et al. 2019, arXiv:1812.01187: a stem
of three convolutions, average pooling before the shortcut's convolution, residual branches that start at zero. Unlike
its picture-reading ancestor every stage is equally wide (Strodthoff et al. 2021, arXiv:2004.13701). 1,872,261 trainable
parameters for five classes.

Dimension letters: B batch · T samples · M channels · L positions · C classes
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

import torch.nn.functional as F
from torch import Tensor, nn

from trainer.networks.config import NetworkConfig
from trainer.networks.layers import benchmark_hidden, conv_norm, conv_norm_relu, mean_and_max


@dataclass(frozen=True)
class XresnetConfig(NetworkConfig):
    """The shape of an `xresnet1d101`; other depths by the blocks of each stage."""

    stem: tuple[int, int, int] = (32, 32, 64)
    blocks: tuple[int, ...] = (3, 4, 23, 3)
    """Per stage; each stage but the first halves the rate."""
    width: int = 64
    """Channels inside a block."""
    expansion: int = 4
    kernel: int = 5
    d_hidden: int = 128
    head_dropout: float = 0.5


class Xresnet(nn.Module):
    """Samples (B, T, leads) → logits (B, C)."""

    def __init__(self, config: XresnetConfig) -> None:
        super().__init__()
        self.config = config
        wide, widths = config.expansion * config.width, (config.n_leads, *config.stem)
        self.stem = nn.Sequential(
            *(
                conv_norm_relu(*width, config.kernel, 2 if layer == 0 else 1)
                for layer, width in enumerate(pairwise(widths))
            ),
            nn.MaxPool1d(3, stride=2, padding=1),
        )
        self.blocks = nn.Sequential(*self._blocks(config))
        self.hidden = benchmark_hidden(2 * wide, config.d_hidden, config.head_dropout)
        self.head = nn.Linear(config.d_hidden, config.n_classes)
        self.apply(initialise_for_rectifiers)
        for block in self.blocks:
            assert isinstance(block, BottleneckBlock)
            nn.init.zeros_(block.last_norm.weight)

    @staticmethod
    def _blocks(config: XresnetConfig) -> list[BottleneckBlock]:
        inputs, blocks = config.stem[-1], []
        for stage, count in enumerate(config.blocks):
            for index in range(count):
                stride = 2 if stage > 0 and index == 0 else 1
                blocks.append(BottleneckBlock(config, inputs, stride))
                inputs = config.expansion * config.width
        return blocks

    def forward(self, x: Tensor) -> Tensor:
        features = self.blocks(self.stem(x.transpose(1, 2)))  # (B, M, L)
        return self.head(self.hidden(mean_and_max(features)))  # type: ignore[no-any-return]


class BottleneckBlock(nn.Module):
    """Narrow, convolve, widen, beside a shortcut; the middle convolution strides."""

    def __init__(self, config: XresnetConfig, inputs: int, stride: int) -> None:
        super().__init__()
        outputs = config.expansion * config.width
        self.stride = stride
        self.narrow = conv_norm_relu(inputs, config.width, 1)
        self.convolve = conv_norm_relu(config.width, config.width, config.kernel, stride)
        self.widen = conv_norm(config.width, outputs, 1)
        self.shortcut = nn.Identity() if inputs == outputs else conv_norm(inputs, outputs, 1)

    @property
    def last_norm(self) -> nn.BatchNorm1d:
        """What scales the branch before it is added."""
        norm = self.widen[-1]
        assert isinstance(norm, nn.BatchNorm1d)
        return norm

    def forward(self, x: Tensor) -> Tensor:
        branch = self.widen(self.convolve(self.narrow(x)))
        return F.relu(branch + self.shortcut(halved(x) if self.stride > 1 else x))


def halved(x: Tensor) -> Tensor:
    """Average neighbours, (B, M, L) → (B, M, ⌈L / 2⌉); a last sample without a neighbour stays as it is."""
    return F.avg_pool1d(F.pad(x, (0, x.shape[2] % 2), mode="replicate"), 2)


def initialise_for_rectifiers(layer: nn.Module) -> None:
    """Set weights normal with variance 2 / fan-in and biases to zero (He et al. 2015)."""
    if isinstance(layer, (nn.Conv1d, nn.Linear)):
        nn.init.kaiming_normal_(layer.weight)
        if layer.bias is not None:
            nn.init.zeros_(layer.bias)
