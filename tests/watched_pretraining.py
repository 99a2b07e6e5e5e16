"""Pre-training by every method with every step's gradients written down, in one process or in those torchrun starts.

torchrun --standalone --nproc-per-node 2 -m tests.watched_pretraining OUT

Networks, projectors and predictors have no batch normalisation here, which several processes have on GPUs only.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import torch
from torch import nn

from edge.runtime.manifest import SignalSpec
from tests.small_networks import small_config
from trainer.augment import Augmentation
from trainer.data import Split
from trainer.distributed import Workers, workers
from trainer.model import ModelConfig
from trainer.preset import Preset, SignalPreset, TrainingPreset
from trainer.pretraining import byol, simclr
from trainer.pretraining.plans import ByolPlan, CpcPlan, MaskedClustersPlan, SimClrPlan
from trainer.pretraining.run import Pretraining

SIGNAL = SignalSpec(
    rate_hz=100, band_hz=(0.05, 40.0), sos=[(1.0, 0.0, 0.0, 1.0, 0.0, 0.0)], mean_mv=[0.0] * 12, std_mv=[0.2] * 12
)
RECIPE = TrainingPreset(
    crop_s=2.5, carried_share=0.5, gain_jitter=0.1, augment=(Augmentation("channel_noise"),), gradient_limit=1e3
)
ENCODER = Preset("s4", "s4-ecg", small_config("s4-ecg", n_layers=1, dropout=0.0), SignalPreset(), RECIPE)
MAMBA = Preset("mamba", "mamba", ModelConfig(d_model=16, n_layers=1, d_state=8, dropout=0.0), SignalPreset(), RECIPE)
HUBERT = Preset("hubert", "hubert-ecg", small_config("hubert-ecg", layer_drop=0.0, dropout=0.0), SignalPreset(), RECIPE)
RUNS = {
    "simclr": (ENCODER, SimClrPlan(epochs=1, batch_size=7, d_projected=8)),
    "byol": (ENCODER, ByolPlan(epochs=1, batch_size=7, d_hidden=16, d_projected=8, decay=0.9)),
    "cpc": (MAMBA, CpcPlan(epochs=2, batch_size=7, moments=4, predictions=3, reach_s=0.5)),
    "masked_clusters": (
        HUBERT, MaskedClustersPlan(epochs=1, batch_size=7, clusters=(4, 3), layer=1, cluster_records=16),
    ),
}  # fmt: skip
"""Batches that two cannot share evenly."""


class Watched(Pretraining):
    """Leaves the gradients of all steps, by parameter, in OUT/gradients.pt."""

    def run(self):
        self.steps = []
        last = super().run()
        if self.workers.first:
            torch.save(self.steps, self.out / "gradients.pt")
        return last

    def _step(self, batch, step_of_epoch):
        done = super()._step(batch, step_of_epoch)
        weights = self.method.trained.named_parameters()
        self.steps.append({name: weight.grad.clone() for name, weight in weights if weight.grad is not None})
        return done


def two_plain_layers(inputs, hidden, outputs):
    return nn.Sequential(nn.Linear(inputs, hidden), nn.LayerNorm(hidden), nn.ReLU(), nn.Linear(hidden, outputs))


def watched(name: str, out: Path, together: Workers) -> Watched:
    """A run of a method in OUT/method."""
    preset, plan = RUNS[name]
    time_s, rng = np.arange(1000) / 100, np.random.default_rng(0)
    rates, shifts = rng.uniform(0.8, 2.5, (21, 1, 1)), rng.uniform(0, 6, (21, 1, 12))
    signals = np.sin(2 * np.pi * rates * time_s[None, :, None] + shifts).astype(np.float32)
    split = Split(signals, np.zeros((21, 5), np.float32))
    return Watched(preset, name, plan, SIGNAL, split, out / name, 0, {}, together)


if __name__ == "__main__":
    simclr.two_layers = byol.two_layers = two_plain_layers
    torch.set_num_threads(1)
    with workers() as together:
        for name in RUNS:
            watched(name, Path(sys.argv[1]), together).run()
