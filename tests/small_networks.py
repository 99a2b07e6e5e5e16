"""Every kind of windowed network, small enough to run through in no time."""

from __future__ import annotations

import msgspec
import torch

from trainer.networks.registry import build_network, config_type

SMALLER = {
    "cardionet-xl": {"channels": [4, 4, 8], "d_hidden": 8},
    "hubert-ecg": {"d_model": 32, "n_layers": 2, "n_heads": 2, "d_conv": 8},
    "inception1d": {"filters": 8},
    "lstm": {"d_model": 16},
    "resnet1d-wang": {"channels": 16},
    "resnet18-1d": {"channels": 8},
    "s4-ecg": {"d_model": 16},
    "xresnet1d101": {"blocks": [1, 2, 1, 1]},
}
"""Shapes that a test runs through in no time, where the whole network takes longer."""


def small_config(kind, **changes):
    """The configuration of a small network of a kind."""
    return msgspec.convert({**SMALLER.get(kind, {}), **changes}, config_type(kind))


def small_network(kind, seed=0, **changes):
    """A small network of a kind, in evaluation mode; no parameter stands at a starting value that hides another."""
    torch.manual_seed(seed)
    network = build_network(kind, small_config(kind, **changes)).eval()
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(0.02 * torch.randn_like(parameter))
    return network


def ecg(batch=2, samples=1000, seed=0):
    """Noise in the shape of ECG, (batch, samples, 12)."""
    return torch.randn(batch, samples, 12, generator=torch.Generator().manual_seed(seed))
