"""CardioNet-XL: three convolutions, each followed by pooling, and a wide dense layer over all that is left.

Nearly all of its 4,135,717 trainable parameters (five classes, 1,000 samples) stand in that layer, which is why it
reads windows of one length only. Layers are initialised as Keras does, in which it was written.

Dimension letters: B batch · T samples · M channels · L positions · C classes
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

from torch import Tensor, nn

from edge.errors import EcgEdgeError
from trainer.networks.config import NetworkConfig

POOL = 2


@dataclass(frozen=True)
class CardioNetConfig(NetworkConfig):
    """The shape of a `cardionet-xl`."""

    channels: tuple[int, ...] = (32, 64, 128)
    kernels: tuple[int, ...] = (7, 5, 3)
    d_hidden: int = 256
    dropout: float = 0.5
    window_samples: int = 1000


class WindowLengthError(EcgEdgeError):
    """A network that reads windows of one length was given another."""

    def __init__(self, needed_samples: int, given_samples: int) -> None:
        self.needed_samples, self.given_samples = needed_samples, given_samples
        super().__init__(
            f"the network reads windows of {needed_samples} samples and was given {given_samples}: "
            "let [training] crop_s be as long as [model] window_samples"
        )


class CardioNet(nn.Module):
    """Samples (B, T, leads), T the window → logits (B, C)."""

    def __init__(self, config: CardioNetConfig) -> None:
        super().__init__()
        self.config = config
        widths = (config.n_leads, *config.channels)
        stages = zip(pairwise(widths), config.kernels, strict=True)
        self.features = nn.Sequential(*(self._stage(*width, kernel) for width, kernel in stages))
        positions = config.window_samples // POOL ** len(config.channels)
        self.hidden = nn.Sequential(
            nn.Linear(positions * widths[-1], config.d_hidden), nn.ReLU(), nn.Dropout(config.dropout)
        )
        self.head = nn.Linear(config.d_hidden, config.n_classes)
        self.apply(initialise_as_keras)

    @staticmethod
    def _stage(inputs: int, outputs: int, kernel: int) -> nn.Sequential:
        return nn.Sequential(
            nn.Conv1d(inputs, outputs, kernel, padding="same"), nn.ReLU(), nn.BatchNorm1d(outputs), nn.MaxPool1d(POOL)
        )

    def forward(self, x: Tensor) -> Tensor:
        if x.shape[1] != self.config.window_samples:
            raise WindowLengthError(self.config.window_samples, x.shape[1])
        features = self.features(x.transpose(1, 2))  # (B, M, L)
        return self.head(self.hidden(features.flatten(1)))  # type: ignore[no-any-return]


def initialise_as_keras(layer: nn.Module) -> None:
    """Set weights Glorot-uniform and biases to zero (Glorot & Bengio 2010), what a Keras layer starts from."""
    if isinstance(layer, (nn.Conv1d, nn.Linear)):
        nn.init.xavier_uniform_(layer.weight)
        assert layer.bias is not None
        nn.init.zeros_(layer.bias)
