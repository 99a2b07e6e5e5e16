"""What a training step minimises and by how much it moves: logits from a carried state, the loss, the rate."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from trainer.batches import Batch
from trainer.model import EcgMamba, State
from trainer.preset import TrainingPreset

LEFT_ALONE = ("A_log", "A_imag", ".D")
"""Matrices or not, the dynamics of a state-space model, which weight decay would move."""
LEFT_ALONE_BEFORE = ("A_log", ".D")
"""Those of runs whose checkpoints do not say; they go on as they were begun."""


def training_logits(model: nn.Module, batch: Batch, left_behind: State) -> tuple[Tensor, State]:
    """Return the logits of a batch's crops, and what they leave behind in a model that carries state, detached.

    A carried batch goes on from what the batch before it left behind: the state after other records, which began in
    that of others again, as an endless stream does. The window's pool starts empty in any case, behind the burn-in.
    """
    if not isinstance(model, EcgMamba):
        return model(batch.crops), {}
    state = model.initial_state(len(batch.crops))
    if batch.carried:
        state |= left_behind
    features, after = model.encode(batch.crops, state)
    logits = model.classify(model.pool_window(features[:, batch.burn_in :]))
    return logits, {name: tensor.detach() for name, tensor in after.items()}


class TrainingPass(nn.Module):
    """`training_logits` as a module, for who wraps one."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, batch: Batch, left_behind: State) -> tuple[Tensor, State]:
        return training_logits(self.model, batch, left_behind)


def loss_of(
    logits: Tensor, targets: Tensor, n_classes: int, recipe: TrainingPreset, positive_weight: Tensor | None = None
) -> Tensor:
    """Binary cross-entropy per class, or cross-entropy between distributions over the classes, one label a record's.

    Positives weigh as `positive_weight` (n_classes,) says, and what is already right less by `focal_gamma`. Outputs
    beyond the classes are SCP statements, whose binary cross-entropy counts by `statements_weight`.
    """
    of_classes, aims = logits[:, :n_classes], targets[:, :n_classes]
    if recipe.loss == "cross_entropy":
        loss = F.cross_entropy(of_classes, aims)
    else:
        loss = binary_loss(of_classes, aims, recipe.focal_gamma, positive_weight)
    if recipe.statements_weight == 0:
        return loss
    statements = F.binary_cross_entropy_with_logits(logits[:, n_classes:], targets[:, n_classes:])
    return loss + recipe.statements_weight * statements


def binary_loss(logits: Tensor, targets: Tensor, focal_gamma: float, positive_weight: Tensor | None) -> Tensor:
    """Mean binary cross-entropy; with a gamma each term counts by how far it is from its target, to that power.

    Lin et al. 2017, arXiv:1708.02002, equation 4, with the distance |target - probability| for targets between 0 and 1.
    """
    if focal_gamma == 0:
        return F.binary_cross_entropy_with_logits(logits, targets, pos_weight=positive_weight)
    terms = F.binary_cross_entropy_with_logits(logits, targets, pos_weight=positive_weight, reduction="none")
    return ((targets - logits.sigmoid()).abs() ** focal_gamma * terms).mean()


def positive_weights(
    labels: NDArray[np.float32], recipe: TrainingPreset, device: torch.device | None = None
) -> Tensor | None:
    """Return negatives per positive of each class, labels (records, classes), where the recipe balances; 1 at least."""
    if recipe.positive_weight == "none":
        return None
    positives = labels.sum(0)
    weights = np.maximum((len(labels) - positives) / np.maximum(positives, 1), 1)
    return torch.tensor(weights, dtype=torch.float32, device=device)


def learning_rate(step: int, steps: int, recipe: TrainingPreset) -> float:
    """One cycle (Smith & Topin 2017): a linear rise over the first 15 %, then half a cosine down to a thousandth."""
    if recipe.schedule == "constant":
        return recipe.learning_rate
    rise = max(1, round(0.15 * steps))
    if step < rise:
        return recipe.learning_rate * (0.04 + 0.96 * step / rise)
    share = (step - rise) / max(1, steps - rise)
    return recipe.learning_rate * (1e-3 + (1 - 1e-3) * 0.5 * (1 + math.cos(math.pi * min(1.0, share))))


def parameter_groups(
    model: nn.Module, weight_decay: float, left_alone: Sequence[str] = LEFT_ALONE
) -> list[dict[str, Any]]:
    """Decay matrices only; biases, norms and the dynamics are left as they are (mamba_ssm and S4D do the same).

    left_alone: how the names of the dynamics end.
    """
    decayed: list[Tensor] = []
    kept: list[Tensor] = []
    for name, parameter in model.named_parameters():
        (kept if parameter.ndim < 2 or name.endswith(tuple(left_alone)) else decayed).append(parameter)
    return [{"params": decayed, "weight_decay": weight_decay}, {"params": kept, "weight_decay": 0.0}]
