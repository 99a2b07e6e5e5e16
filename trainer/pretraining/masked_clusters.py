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
        crops = torch.split(sample(self.plan.cluster_records), FEATURE_RECORDS)
        features = torch.cat([self._features(stage, some.to(self.given.device)).cpu() for some in crops])
        self._set_task(stage, find_clusters(features.flatten(0, 1).numpy(), self.plan.clusters[stage], self.given.seed))

    def _set_task(self, stage: int, clusters: Clusters) -> None:
        self.stage, self.clusters = stage, clusters.to(self.given.device)
        self.trained = MaskedClusterPrediction(self.network, len(clusters.centres)).to(self.given.device)

    def loss(self, batch: Batch) -> tuple[Tensor, float]:
        clusters = self.clusters.of(self._features(self.stage, batch.crops))
        mask = hidden_frames(len(batch.crops), clusters.shape[1], self.plan.hidden_share, self.given.generator)
        mask = mask.to(clusters.device)
        with self.given.mixed_precision():
            logits = self.trained(batch.crops, mask)
        loss = torch.nn.functional.cross_entropy(logits.float(), clusters[mask])
        return loss, float((logits.argmax(1) == clusters[mask]).float().mean())

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
