"""Two small convolutional networks: one over the signal, one over a grey picture of it.

46,757 and 6,613 trainable parameters for five classes.

Dimension letters: B batch · T samples · M channels · L positions · H rows · W columns · C classes
"""

from __future__ import annotations

from dataclasses import dataclass

import torch.nn.functional as F
from torch import Tensor, nn

from trainer.networks.config import NetworkConfig


@dataclass(frozen=True)
class SimpleCnn1dConfig(NetworkConfig):
    """The shape of a `simple-cnn-1d`."""

    channels: tuple[int, int, int] = (32, 64, 128)
    d_hidden: int = 64
    dropout: float = 0.2


class SimpleCnn1d(nn.Module):
    """Samples (B, T, leads) → logits (B, C)."""

    def __init__(self, config: SimpleCnn1dConfig) -> None:
        super().__init__()
        self.config = config
        first, second, third = config.channels
        self.features = nn.Sequential(
            nn.Conv1d(config.n_leads, first, 7, stride=2, padding=3), nn.BatchNorm1d(first), nn.ReLU(),
            nn.Conv1d(first, second, 5, stride=2, padding=2), nn.BatchNorm1d(second), nn.ReLU(), nn.MaxPool1d(2),
            nn.Conv1d(second, third, 3, padding=1), nn.BatchNorm1d(third), nn.ReLU(),
        )  # fmt: skip
        self.hidden = nn.Sequential(nn.Linear(third, config.d_hidden), nn.ReLU(), nn.Dropout(config.dropout))
        self.head = nn.Linear(config.d_hidden, config.n_classes)

    def forward(self, x: Tensor) -> Tensor:
        features = self.features(x.transpose(1, 2))  # (B, M, L)
        return self.head(self.hidden(features.mean(2)))  # type: ignore[no-any-return]


@dataclass(frozen=True)
class SimpleCnn2dConfig(NetworkConfig):
    """The shape of a `simple-cnn-2d`."""

    height: int = 64
    """Rows of the picture: what the leads leave free at the bottom is empty."""
    width: int = 256
    rows_per_lead: int = 5
    channels: tuple[int, int, int] = (8, 16, 32)
    d_hidden: int = 16


class SimpleCnn2d(nn.Module):
    """Samples (B, T, leads) → logits (B, C); looks at a picture, one band of grey per lead."""

    def __init__(self, config: SimpleCnn2dConfig) -> None:
        super().__init__()
        self.config = config
        first, second, third = config.channels
        self.features = nn.Sequential(
            nn.Conv2d(1, first, 3, padding=1), nn.BatchNorm2d(first), nn.ReLU(), nn.MaxPool2d(2),
            nn.Conv2d(first, second, 3, padding=1), nn.BatchNorm2d(second), nn.ReLU(), nn.MaxPool2d(2),
            nn.Conv2d(second, third, 3, padding=1), nn.BatchNorm2d(third), nn.ReLU(),
        )  # fmt: skip
        self.hidden = nn.Sequential(nn.Linear(third, config.d_hidden), nn.ReLU())
        self.head = nn.Linear(config.d_hidden, config.n_classes)

    def forward(self, x: Tensor) -> Tensor:
        features = self.features(self.picture(x))  # (B, M, H/4, W/4)
        return self.head(self.hidden(features.mean((2, 3))))  # type: ignore[no-any-return]

    def picture(self, x: Tensor) -> Tensor:
        """Samples (B, T, leads) → grey picture (B, 1, H, W): leads from the top, resampled, each in several rows."""
        config = self.config
        traces = F.interpolate(x.transpose(1, 2), size=config.width, mode="linear")  # (B, leads, W)
        rows = traces.repeat_interleave(config.rows_per_lead, dim=1)
        empty = config.height - config.n_leads * config.rows_per_lead
        return F.pad(rows, (0, 0, 0, empty)).unsqueeze(1)
