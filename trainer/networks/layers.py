"""Pieces that several networks share.

Dimension letters: B batch · M channels · L positions
"""

from __future__ import annotations

import torch
from torch import Tensor, nn


def same_conv(inputs: int, outputs: int, kernel: int, stride: int = 1) -> nn.Conv1d:
    """Return a convolution without bias whose output is as long as its input, but for the stride; odd kernels."""
    return nn.Conv1d(inputs, outputs, kernel, stride, padding=(kernel - 1) // 2, bias=False)


def conv_norm(inputs: int, outputs: int, kernel: int, stride: int = 1) -> nn.Sequential:
    """Return a convolution that keeps the length but for its stride, and batch normalisation after it."""
    return nn.Sequential(same_conv(inputs, outputs, kernel, stride), nn.BatchNorm1d(outputs))


def conv_norm_relu(inputs: int, outputs: int, kernel: int, stride: int = 1) -> nn.Sequential:
    """Return the same with a rectifier behind it."""
    return conv_norm(inputs, outputs, kernel, stride).append(nn.ReLU())


def mean_and_max(features: Tensor) -> Tensor:
    """Pool features (B, M, L) over time → (B, 2M)."""
    return torch.cat([features.mean(2), features.amax(2)], 1)


def benchmark_hidden(pooled: int, d_hidden: int, dropout: float) -> nn.Sequential:
    """Return the hidden layer that all networks of the PTB-XL benchmark have between pooling and their last layer.

    Half the dropout before it, all of it behind (Strodthoff et al. 2021, arXiv:2004.13701; fastai's custom head).
    """
    return nn.Sequential(
        nn.BatchNorm1d(pooled), nn.Dropout(dropout / 2), nn.Linear(pooled, d_hidden), nn.ReLU(),
        nn.BatchNorm1d(d_hidden), nn.Dropout(dropout),
    )  # fmt: skip
