"""The encoder of the self-supervised classifier: six convolutions, their average over time, one linear layer.

539,909 trainable parameters for five classes. SimCLR and BYOL train `features`; fine-tuning adds the linear layer.

Dimension letters: B batch · T samples · M channels · L positions · C classes
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

from torch import Tensor, nn

from trainer.networks.config import NetworkConfig
from trainer.networks.layers import conv_norm_relu


@dataclass(frozen=True)
class SslEncoderConfig(NetworkConfig):
    """The shape of an `ssl-encoder`."""

    width: int = 64
    """Channels of the first two blocks; twice and four times as many in the next two pairs."""
    kernels: tuple[int, ...] = (11, 7, 7, 5, 5, 3)
    strides: tuple[int, ...] = (2, 1, 2, 1, 2, 1)

    @property
    def d_features(self) -> int:
        """Width of the features."""
        return self.width << (len(self.kernels) - 1) // 2


class SslEncoder(nn.Module):
    """Samples (B, T, leads) → logits (B, C)."""

    def __init__(self, config: SslEncoderConfig) -> None:
        super().__init__()
        self.config = config
        widths = [config.n_leads, *(config.width << block // 2 for block in range(len(config.kernels)))]
        blocks = zip(pairwise(widths), config.kernels, config.strides, strict=True)
        self.blocks = nn.Sequential(*(conv_norm_relu(*width, kernel, stride) for width, kernel, stride in blocks))
        self.head = nn.Linear(config.d_features, config.n_classes)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.features(x))  # type: ignore[no-any-return]

    def features(self, x: Tensor) -> Tensor:
        """Samples (B, T, leads) → features (B, M)."""
        return self.blocks(x.transpose(1, 2)).mean(2)  # type: ignore[no-any-return]
