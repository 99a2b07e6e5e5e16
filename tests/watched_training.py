"""`python -m trainer` with every step's gradients written down, for one process or for those that torchrun starts.

torchrun --standalone --nproc-per-node 2 -m tests.watched_training train …
"""

from __future__ import annotations

import runpy

import torch

from trainer import train_command
from trainer.train import Trainer

GRADIENTS_NAME = "gradients.pt"


class Watched(Trainer):
    """Leaves the gradients of all steps, by parameter, in OUT/gradients.pt."""

    def run(self, *args, **kwargs):
        steps = []

        def write_down(*_):
            steps.append({name: weight.grad.cpu().clone() for name, weight in self.model.named_parameters()})

        self.optimiser.register_step_pre_hook(write_down)
        best = super().run(*args, **kwargs)
        if self.workers.first and steps:
            torch.save(steps, self.out / GRADIENTS_NAME)
        return best


if __name__ == "__main__":
    train_command.Trainer = Watched
    runpy.run_module("trainer", run_name="__main__")
