"""BYOL: from one view of a record, foretell what a slow copy of the network makes of another; nothing else is compared.

The copy, the target, is a moving average of the network and its projector, and starts as their equal. It has no
gradient; a predictor on the fast side alone keeps both from agreeing on nothing. Grill et al. 2020, arXiv:2006.07733.

Dimension letters: B records of a batch · D width of what is compared
"""

from __future__ import annotations

import copy
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from trainer.batches import Batch
from trainer.pretraining.method import Method, Surroundings, features_of, two_layers
from trainer.pretraining.plans import ByolPlan
from trainer.transfer import head_of


class Byol(Method):
    """For networks of any kind."""

    views = 2
    score = "cosine to the target"

    def __init__(self, network: nn.Module, plan: ByolPlan, given: Surroundings) -> None:
        self.plan, self.given = plan, given
        projector = two_layers(head_of(network).in_features, plan.d_hidden, plan.d_projected)
        self.online = nn.ModuleDict({"network": network, "projector": projector})
        self.predictor = two_layers(plan.d_projected, plan.d_hidden, plan.d_projected)
        self.trained = nn.ModuleDict({"online": self.online, "predictor": self.predictor})
        self.target = given.workers.placed(copy.deepcopy(self.online).requires_grad_(False))

    def loss(self, batch: Batch) -> tuple[Tensor, float]:
        with self.given.mixed_precision():
            foretold = self.predictor(projected(self.online, batch.crops))
            with torch.no_grad():
                aims = projected(self.target, batch.crops)
        whole = (self.given.workers.gathered(rows.float(), self.views) for rows in (foretold, aims))
        cosine = agreement(*whole)
        return 2 - 2 * cosine, float(cosine.detach())

    @torch.no_grad()
    def stepped(self) -> None:
        for slow, fast in zip(self.target.parameters(), self.online.parameters(), strict=True):
            slow.mul_(self.plan.decay).add_(fast, alpha=1 - self.plan.decay)

    def state(self) -> dict[str, Any]:
        return {**super().state(), "target": self.target.state_dict()}

    def restore(self, stage: int, state: dict[str, Any]) -> None:
        super().restore(stage, state)
        self.target.load_state_dict(state["target"])


def projected(side: nn.ModuleDict, crops: Tensor) -> Tensor:
    """Crops (2B, T, leads) → what one side compares (2B, D)."""
    return side["projector"](features_of(side["network"], crops))  # type: ignore[no-any-return]


def agreement(foretold: Tensor, aims: Tensor) -> Tensor:
    """The mean cosine of each view's prediction (2B, D) to the target of the record's other view (2B, D)."""
    return F.cosine_similarity(foretold, aims.roll(len(aims) // 2, 0), dim=1).mean()
