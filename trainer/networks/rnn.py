"""The causal recurrent network of the PTB-XL benchmark: two LSTM layers, pooled by average, maximum and last step.

Strodthoff et al. 2021, arXiv:2004.13701, call it `lstm`; the layer is Hochreiter & Schmidhuber 1997's. 903,685
trainable parameters for five classes. What it says at a sample depends on nothing after it; pooling does not.

Dimension letters: B batch · T samples · M channels · C classes
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from trainer.networks.config import NetworkConfig
from trainer.networks.layers import benchmark_hidden


@dataclass(frozen=True)
class LstmConfig(NetworkConfig):
    """The shape of an `lstm`."""

    d_model: int = 256
    n_layers: int = 2
    d_hidden: int = 128
    head_dropout: float = 0.5


class Lstm(nn.Module):
    """Samples (B, T, leads) → logits (B, C)."""

    def __init__(self, config: LstmConfig) -> None:
        super().__init__()
        self.config = config
        self.lstm = nn.LSTM(config.n_leads, config.d_model, config.n_layers, batch_first=True)
        self.hidden = benchmark_hidden(3 * config.d_model, config.d_hidden, config.head_dropout)
        self.head = nn.Linear(config.d_hidden, config.n_classes)

    def forward(self, x: Tensor) -> Tensor:
        features = self.features(x)
        pooled = torch.cat([features.mean(1), features.amax(1), features[:, -1]], 1)  # (B, 3M)
        return self.head(self.hidden(pooled))  # type: ignore[no-any-return]

    def features(self, x: Tensor) -> Tensor:
        """Samples (B, T, leads) → features (B, T, M), each of what came up to it."""
        features: Tensor = self.lstm(x)[0]
        return features
