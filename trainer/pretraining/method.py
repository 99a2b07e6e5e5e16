"""What a method of learning without labels has to say; loop, steps and files are `trainer.pretraining.run`'s.

Dimension letters: B batch · T samples · M features
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from trainer.batches import Batch
from trainer.distributed import Workers
from trainer.mixed_precision import Precision, mixed_precision
from trainer.transfer import head_of

Sample = Callable[[int], Tensor]
"""Cuts a crop from each of so many records at random, (records, T, leads)."""


@dataclass(frozen=True)
class Surroundings:
    """What a method is given besides the network and its plan."""

    workers: Workers
    """The processes that learn together; each knows its share of a batch."""
    precision: Precision
    generator: torch.Generator
    """Draws what a method draws, on the CPU, for a whole batch in every process; its state is kept with the run."""
    seed: int
    rate_hz: int

    def mixed_precision(self) -> torch.autocast:
        """Return the context in which networks are run; losses are computed outside of it, in float32."""
        return mixed_precision(self.precision, self.workers.device.type)


class Method(ABC):
    """One way to learn without labels. All processes call the same of what is here, in the same order."""

    trained: nn.Module
    """The network and what is put on top of it: all that has a gradient."""
    stages: int = 1
    views: int = 1
    """How many crops of each record make a batch: all records' first ones, then all their second ones."""
    score: str
    """What the figure beside the loss is, as a sentence goes on after a number."""

    def begin_stage(self, stage: int, sample: Sample) -> None:  # noqa: B027 - most methods have one stage and no task
        """Set up the task of a stage, counted from 0."""

    @abstractmethod
    def loss(self, batch: Batch) -> tuple[Tensor, float]:
        """Return what to minimise, and the score of this batch.

        The batch is this process's share; both are of all that the processes have, see `Workers.gathered`.
        """

    def stepped(self) -> None:  # noqa: B027 - only some follow their own steps
        """Take notice of a step that was taken."""

    def state(self) -> dict[str, Any]:
        """Return all that the method has to remember."""
        return {"trained": self.trained.state_dict()}

    def restore(self, stage: int, state: dict[str, Any]) -> None:
        """Go on from what `state` returned in this stage."""
        self.trained.load_state_dict(state["trained"])


class LossPass(nn.Module):
    """A method's loss as the pass of a module that has all it trains for parameters, for who wraps one."""

    def __init__(self, method: Method) -> None:
        super().__init__()
        self.trained, self._loss = method.trained, method.loss

    def forward(self, batch: Batch) -> tuple[Tensor, float]:
        return self._loss(batch)


def features_of(network: nn.Module, x: Tensor) -> Tensor:
    """Samples (B, T, leads) → what a network of any kind hands to its last layer (B, M)."""
    given: list[Tensor] = []
    hook = head_of(network).register_forward_pre_hook(lambda layer, inputs: given.append(inputs[0]))
    try:
        network(x)
    finally:
        hook.remove()
    return given[0]


def two_layers(inputs: int, hidden: int, outputs: int) -> nn.Sequential:
    """Return a small network with one normalised hidden layer: a projector or a predictor."""
    return nn.Sequential(
        nn.Linear(inputs, hidden, bias=False), nn.BatchNorm1d(hidden), nn.ReLU(), nn.Linear(hidden, outputs)
    )
