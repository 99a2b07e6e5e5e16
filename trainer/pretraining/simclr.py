"""SimCLR: two changed views of a record should be more alike than either is to any other view in the batch.

Chen et al. 2020, arXiv:2002.05709. Dimension letters: B records of a batch · D width of what is compared
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from trainer.batches import Batch
from trainer.pretraining.method import Method, Surroundings, features_of, two_layers
from trainer.pretraining.plans import SimClrPlan
from trainer.transfer import head_of


class SimClr(Method):
    """For networks of any kind."""

    views = 2
    score = "of the views found their other one"

    def __init__(self, network: nn.Module, plan: SimClrPlan, given: Surroundings) -> None:
        width = head_of(network).in_features
        self.network, self.plan, self.given = network, plan, given
        self.projector = two_layers(width, width, plan.d_projected)
        self.trained = nn.ModuleDict({"network": network, "projector": self.projector})

    def loss(self, batch: Batch) -> tuple[Tensor, float]:
        with self.given.mixed_precision():
            projected = self.projector(features_of(self.network, batch.crops))
        return nt_xent(self.given.workers.gathered(projected.float(), self.views), self.plan.temperature)


def nt_xent(projected: Tensor, temperature: float) -> tuple[Tensor, float]:
    """Return the normalised-temperature cross-entropy of views (2B, D), and which share of them found their other one.

    All records' first views stand before their second ones. Equation 1, averaged over all 2B views.
    """
    logits, partners = _partner_logits(projected, temperature)
    return F.cross_entropy(logits, partners), float((logits.argmax(1) == partners).float().mean())


def _partner_logits(projected: Tensor, temperature: float) -> tuple[Tensor, Tensor]:
    """Return each view's cosine to all others over the temperature (2B, 2B), never itself, and its other view (2B,)."""
    directions = F.normalize(projected, dim=1)
    alike = directions @ directions.T / temperature
    itself = torch.eye(len(alike), dtype=torch.bool, device=alike.device)
    partners = torch.arange(len(alike), device=alike.device).roll(len(alike) // 2)
    return alike.masked_fill(itself, -torch.inf), partners
