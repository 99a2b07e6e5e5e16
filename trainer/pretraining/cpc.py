"""Causal contrastive predictive coding, for the streaming Mamba: the carried context foretells frames that are to come.

A frame is what the stem makes of a moment; the context is what the blocks have made of all frames up to now, from the
state that other records left behind, as in training. The frame that comes is told from those of other moments and other
records of the batch. Van den Oord et al. 2018, arXiv:1807.03748.

Dimension letters: B batch · T samples · L frames · M d_model · P predictions · A moments
"""

from __future__ import annotations

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from edge.errors import ConfigError
from trainer.batches import Batch
from trainer.model import EcgMamba, ModelConfig, State
from trainer.pretraining.method import Method, Surroundings
from trainer.pretraining.plans import CpcPlan


class Cpc(Method):
    """For the streaming Mamba. Raises ConfigError where nothing lies between what is unseen and what is in reach."""

    score = "of the frames to come were recognised"

    def __init__(self, network: EcgMamba, plan: CpcPlan, given: Surroundings) -> None:
        self.network, self.plan, self.given = network, plan, given
        self.steps = steps_ahead(network.config, plan, given.rate_hz)
        width = network.config.d_model
        self.predictors = nn.ModuleList(nn.Linear(width, width, bias=False) for _ in self.steps)
        self.trained = nn.ModuleDict({"network": network, "predictors": self.predictors})
        self.left_behind: State = {}

    def loss(self, batch: Batch) -> tuple[Tensor, float]:
        state = self.network.initial_state(len(batch.crops))
        if batch.carried:
            state |= self.left_behind
        with self.given.mixed_precision():
            frames, context, after = frames_and_context(self.network, batch.crops, state)
        self.left_behind = {name: tensor.detach() for name, tensor in after.items()}
        moments = self._moments(frames.shape[1]).to(frames.device)
        now = context[:, moments].float()
        foretold = torch.stack([predictor(now) for predictor in self.predictors], 1)  # (B, P, A, M)
        coming = torch.stack([frames[:, moments + ahead].float() for ahead in self.steps], 1)
        foretold, coming = self.given.workers.gathered(foretold), self.given.workers.gathered(coming)
        logits = [recognition_logits(*of_step) for of_step in zip(foretold.unbind(1), coming.unbind(1), strict=True)]
        stacked = torch.cat(logits) / self.plan.temperature  # (P·B·A, B·A)
        right = torch.arange(stacked.shape[1], device=stacked.device).repeat(len(self.steps))
        return F.cross_entropy(stacked, right), float((stacked.argmax(1) == right).float().mean())

    def _moments(self, frames: int) -> Tensor:
        """Draw the frames (A,) that are looked ahead from."""
        possible = frames - self.steps[-1]
        if possible < 1:
            raise ConfigError("cpc", (f"crops of {frames} frames are too short to foretell {self.steps[-1]} ahead",))
        return torch.randperm(possible, generator=self.given.generator)[: self.plan.moments]

    def state(self) -> dict[str, Any]:
        return {**super().state(), "left_behind": self.given.workers.joined(self.left_behind)}

    def restore(self, stage: int, state: dict[str, Any]) -> None:
        super().restore(stage, state)
        self.left_behind = self.given.workers.shares(state["left_behind"])


def frames_and_context(network: EcgMamba, x: Tensor, state: State) -> tuple[Tensor, Tensor, State]:
    """Samples (B, T, leads) → the stem's frames (B, L, M), the context at each of them (B, L, M), the state after."""
    made: list[Tensor] = []
    hook = network.stem.register_forward_hook(lambda stem, inputs, outputs: made.append(outputs[0]))
    try:
        context, after = network.encode(x, state)
    finally:
        hook.remove()
    return made[0], context, after


def recognition_logits(foretold: Tensor, frames: Tensor) -> Tensor:
    """Return the cosine of each prediction (B, A, M) to each frame (B, A, M), (B·A, B·A); its own one is diagonal."""
    return F.normalize(foretold.flatten(0, 1), dim=1) @ F.normalize(frames.flatten(0, 1), dim=1).T


def steps_ahead(config: ModelConfig, plan: CpcPlan, rate_hz: int) -> list[int]:
    """Return how many frames ahead the predictions are: from the first that shares no sample with the context."""
    first, last = unseen_after(config), int(plan.reach_s * rate_hz) // config.stride
    if last < first:
        raise ConfigError("cpc", (f"reach_s = {plan.reach_s:g} ends before the first frame that is all unseen",))
    return sorted(set(torch.linspace(first, last, plan.predictions).round().int().tolist()))


def unseen_after(config: ModelConfig) -> int:
    """Return how many frames later none of a frame's samples has been seen: how long the stem sees, in frames."""
    sees, spacing = 1, 1
    for stage in config.stem_stages:
        sees += (stage.kernel - 1) * spacing
        spacing *= stage.stride
    return math.ceil(sees / config.stride)
