"""Training the last layer alone, on features that stay as they are: what is in a network before it is fine-tuned."""

from __future__ import annotations

import torch
from torch import nn

from trainer.batches import Float32Array
from trainer.statistics import measure_statistics
from trainer.transfer import head_of

SETTLING_RECORDS = 512
SETTLING_BATCH = 64


def freeze(model: nn.Module) -> None:
    """Let only the last layer have a gradient."""
    model.requires_grad_(False)
    head_of(model).requires_grad_(True)


def train_mode(model: nn.Module, frozen: bool) -> None:
    """Put a model in training mode, of a frozen one the last layer: neither dropout nor statistics disturb the rest."""
    model.train(not frozen)
    head_of(model).train()


def settle(model: nn.Module, signals: Float32Array, samples: int) -> None:
    """Give batch normalisation the statistics of some records, the first `samples` of each.

    For random weights, whose own would be those of no signal at all: their features would fade from layer to layer.
    """
    crops = torch.from_numpy(signals[:SETTLING_RECORDS, :samples])
    batches = torch.tensor_split(crops, max(1, len(crops) // SETTLING_BATCH))
    measure_statistics(model, batches)
