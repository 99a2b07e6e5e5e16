"""Batch normalisation's statistics, measured anew for weights that are not those it went along with in training."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm


def has_statistics(model: nn.Module) -> bool:
    """Tell whether a model has batch normalisation."""
    return any(isinstance(module, _BatchNorm) for module in model.modules())


@torch.no_grad()
def measure_statistics(model: nn.Module, batches: Iterable[Tensor]) -> None:
    """Give batch normalisation the mean and variance of what it gets from these batches when the model is evaluated.

    Averaged weights need it: the running statistics of training belong to each step's weights, and their average to
    none. Dropout is off meanwhile, and no random numbers are drawn.
    """
    norms = [module for module in model.modules() if isinstance(module, _BatchNorm)]
    was_training, momenta = model.training, [norm.momentum for norm in norms]
    device = next(model.parameters()).device
    model.eval()
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None  # every batch counts alike
        norm.train()
    for batch in batches:
        model(batch.to(device))
    for norm, momentum in zip(norms, momenta, strict=True):
        norm.momentum = momentum
    model.train(was_training)
