"""HuBERT's masked cluster prediction: which cluster do the hidden frames belong to?

Hsu et al. 2021, arXiv:2106.07447: the first stage guesses clusters of the signal's own features, each further one
clusters of what a layer of the network made of it in the stage before. Weights go on from stage to stage.

Dimension letters: B batch · T samples · F frames · D features
"""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import Tensor

from trainer.batches import Batch
from trainer.networks.hubert import Hubert, MaskedClusterPrediction, hidden_frames
from trainer.pretraining.clusters import Clusters, find_clusters, signal_features
from trainer.pretraining.method import Method, Sample, Surroundings
from trainer.pretraining.plans import MaskedClustersPlan

FEATURE_RECORDS = 64
"""How many records' features are computed at once."""


class MaskedClusters(Method):
    """For HuBERT-ECG."""

    score = "of the hidden frames were guessed"

    def __init__(self, network: Hubert, plan: MaskedClustersPlan, given: Surroundings) -> None:
        self.network, self.plan, self.given = network, plan, given
        self.stages = len(plan.clusters)

    def begin_stage(self, stage: int, sample: Sample) -> None:
        """Find this stage's clusters and give the network a fresh task on top of what it has learned."""
        self.teacher = copy.deepcopy(self.network).eval()
        crops = sample(self.plan.cluster_records)
        self._set_task(stage, self.given.workers.agreed(lambda: self._found(stage, crops)))

    def _found(self, stage: int, crops: Tensor) -> Clusters:
        parts = (some.to(self.given.workers.device) for some in torch.split(crops, FEATURE_RECORDS))
        features = torch.cat([self._features(stage, some).cpu() for some in parts])
        return find_clusters(features.flatten(0, 1).numpy(), self.plan.clusters[stage], self.given.seed)

    def _set_task(self, stage: int, clusters: Clusters) -> None:
        device = self.given.workers.device
        self.stage, self.clusters = stage, clusters.to(device)
        self.trained = MaskedClusterPrediction(self.network, len(clusters.centres)).to(device)

    def loss(self, batch: Batch) -> tuple[Tensor, float]:
        workers = self.given.workers
        clusters = self.clusters.of(self._features(self.stage, batch.crops))
        records, frames = workers.total(len(clusters)), clusters.shape[1]
        mask = workers.own(hidden_frames(records, frames, self.plan.hidden_share, self.given.generator))
        with self.given.mixed_precision():
            logits = self.trained(batch.crops, mask)
        guesses, hidden = workers.gathered(logits.float()), workers.gathered(clusters[mask])
        loss = torch.nn.functional.cross_entropy(guesses, hidden)
        return loss, float((guesses.argmax(1) == hidden).float().mean())

    @torch.no_grad()
    def _features(self, stage: int, crops: Tensor) -> Tensor:
        """Crops (B, T, leads) → the features that this stage clusters (B, F, D)."""
        if stage == 0:
            return signal_features(self.teacher, crops)
        with self.given.mixed_precision():
            return self.teacher.layer_features(crops, self.plan.layer).float()

    def state(self) -> dict[str, Any]:
        return {**super().state(), "clusters": vars(self.clusters), "teacher": self.teacher.state_dict()}

    def restore(self, stage: int, state: dict[str, Any]) -> None:
        self.teacher = copy.deepcopy(self.network).eval()
        self.teacher.load_state_dict(state["teacher"])
        self._set_task(stage, Clusters(**state["clusters"]))
        super().restore(stage, state)
