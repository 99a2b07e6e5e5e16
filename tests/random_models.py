"""Untrained models of every kind the exporter must write, and bundles of them."""

from __future__ import annotations

from pathlib import Path

import torch

from edge.runtime.bundle import Bundle
from export.bundle import write_bundle
from tests.tiny_bundle import tiny_checkpoint
from trainer.checkpoint import Checkpoint
from trainer.model import EcgMamba, ModelConfig

SMALL = ModelConfig(d_model=16, n_layers=2, d_state=4)

CONFIGS = {
    "streaming": ModelConfig(),
    "seed": ModelConfig(
        d_model=64,
        n_layers=2,
        stem_kernel=1,
        stride=1,
        residual=False,
        final_norm=False,
        pooling="mean",
        pool_norm=True,
    ),
    "stem-as-wide-as-its-stride": ModelConfig(d_model=16, n_layers=1, d_state=4, stem_kernel=4, pool_norm=True),
    "stem-longer-than-a-hop": ModelConfig(d_model=16, n_layers=3, d_state=4, stem_kernel=60, hop_samples=20),
    "mean-without-norms": ModelConfig(d_model=16, n_layers=4, d_state=8, d_conv=2, pooling="mean", final_norm=False),
    "max-without-residual": ModelConfig(d_model=24, n_layers=2, d_state=16, expand=1, residual=False, stride=2),
    "votes-of-two-hops": ModelConfig(d_model=16, n_layers=2, d_state=4, vote_hops=2),
    "stem-of-three": ModelConfig(
        d_model=16, n_layers=1, d_state=4, stem_layers=((8, 7, 1), (12, 5, 2)), stem_kernel=5, pooling="mean+peaks"
    ),
    "decays-that-are-multiples": ModelConfig(d_model=24, n_layers=2, d_state=29, decays="multiples"),
}
"""What the graph must be able to hold, each a name and a shape."""


def random_model(config: ModelConfig = SMALL, seed: int = 0) -> EcgMamba:
    """Return a model with random weights in evaluation mode."""
    torch.manual_seed(seed)
    model = EcgMamba(config).eval()
    for name, parameter in model.named_parameters():
        if name.endswith("A_log"):  # which begins as multiples whatever it may become
            parameter.data += 0.2 * torch.randn(
                parameter.shape[0], 1 if config.decays == "multiples" else config.d_state
            )
    return model


def random_bundle(path: Path, config: ModelConfig = SMALL, seed: int = 0) -> Bundle:
    """Write a bundle of such a model."""
    checkpoint = Checkpoint(random_model(config, seed), tiny_checkpoint().facts, Path("random"))
    return write_bundle(checkpoint, path, "random", "0.1")
