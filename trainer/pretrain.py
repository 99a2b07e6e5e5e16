"""Pre-training without labels: HuBERT's masked cluster prediction, in stages, resumable after each epoch.

Hsu et al. 2021, arXiv:2106.07447: the first stage guesses clusters of the signal's own features, each further one
clusters of what a layer of the network made of it in the stage before. Weights go on from stage to stage.
"""

from __future__ import annotations

import copy
import json
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import torch
from torch import Tensor

from edge.errors import ConfigError
from edge.runtime.manifest import SignalSpec
from edge.signal.leads import STANDARD_LEADS
from trainer.batches import batches, batches_per_epoch, random_crops, whole_frames
from trainer.checkpoint import save_checkpoint
from trainer.clusters import Clusters, find_clusters, signal_features
from trainer.data import Split
from trainer.kinds import build_model
from trainer.networks.hubert import Hubert, MaskedClusterPrediction, hidden_frames
from trainer.objective import learning_rate, parameter_groups
from trainer.preset import Preset, TrainingPreset
from trainer.progress import progress
from trainer.train import BEST_NAME, HISTORY_NAME, LAST_NAME, RunMismatchError

FEATURE_RECORDS = 64
"""How many records' features are computed at once."""


@dataclass(frozen=True)
class PretrainingEpoch:
    """What one epoch gave: of the hidden frames."""

    stage: int
    epoch: int
    loss: float
    accuracy: float
    seconds: float


class Pretraining:
    """One run in a folder; OUT/best is what `ecg-trainer train --init` starts from. `run` continues what stands there.

    Raises ConfigError when the preset says nothing of pre-training.
    """

    def __init__(
        self, preset: Preset, signal: SignalSpec, train: Split, out: Path, seed: int, facts: dict[str, Any]
    ) -> None:
        if preset.pretraining is None:
            raise ConfigError(preset.name, ("it has no [pretraining]; hubert-ecg-small has",))
        self.preset, self.plan, self.signal, self.train = preset, preset.pretraining, signal, train
        self.recipe = recipe_of(preset)
        self.out, self.facts, self.seed = out, {**facts, "seed": seed}, seed
        torch.manual_seed(seed)
        self.rng, self.generator = np.random.default_rng(seed), torch.Generator().manual_seed(seed)
        network = build_model(preset.kind, preset.model)
        assert isinstance(network, Hubert)
        self.network = network
        self.history: list[PretrainingEpoch] = []
        self.stage = -1

    def run(self, on_epoch: Callable[[PretrainingEpoch], None] = lambda epoch: None) -> PretrainingEpoch:
        """Go through all stages; return the last epoch."""
        self.out.mkdir(parents=True, exist_ok=True)
        self._resume()
        total = len(self.plan.clusters) * self.plan.epochs
        with progress() as bar:
            task = bar.add_task("pre-training", total=total, completed=len(self.history))
            while len(self.history) < total:
                if len(self.history) == (self.stage + 1) * self.plan.epochs:
                    self._begin_stage(self.stage + 1)
                epoch = self._epoch()
                bar.update(task, advance=1, description=f"stage {epoch.stage} · loss {epoch.loss:.4f}")
                on_epoch(epoch)
        return self.history[-1]

    def _begin_stage(self, stage: int) -> None:
        """Find this stage's clusters and give the network a fresh task on top of what it has learned."""
        self.teacher = copy.deepcopy(self.network).eval()
        rows = self.rng.permutation(len(self.train))[: self.plan.cluster_records]
        crops = random_crops(self.train.signals, rows, self._crop_samples, self.rng)
        starts = range(0, len(crops), FEATURE_RECORDS)
        parts = [self._features(stage, torch.from_numpy(crops[at : at + FEATURE_RECORDS])) for at in starts]
        self._set_stage(
            stage, find_clusters(torch.cat(parts).flatten(0, 1).numpy(), self.plan.clusters[stage], self.seed)
        )

    def _set_stage(self, stage: int, clusters: Clusters) -> None:
        self.stage, self.clusters = stage, clusters
        self.task = MaskedClusterPrediction(self.network, len(clusters.centres))
        self.optimiser = torch.optim.AdamW(parameter_groups(self.task, self.recipe.weight_decay))

    @property
    def _crop_samples(self) -> int:
        return whole_frames(self.recipe.crop_s, self.signal.rate_hz, 1)

    @torch.no_grad()
    def _features(self, stage: int, crops: Tensor) -> Tensor:
        """Crops (B, T, leads) → the features that this stage clusters (B, F, D)."""
        if stage == 0:
            return signal_features(self.teacher, crops)
        with self._precision():
            return self.teacher.layer_features(crops, self.plan.layer).float()

    def _epoch(self) -> PretrainingEpoch:
        start_s = time.monotonic()
        losses: list[float] = []
        right: list[float] = []
        self.task.train()
        unlabelled = np.zeros((len(self.train), 0), np.float32)
        std_mv = float(np.mean(self.signal.std_mv))
        for batch in batches(self.train.signals, unlabelled, self.recipe, self.signal.rate_hz, 1, std_mv, self.rng):
            loss, accuracy = self._step(batch.crops, len(losses))
            losses.append(loss)
            right.append(accuracy)
        number = len(self.history) % self.plan.epochs + 1
        seconds = time.monotonic() - start_s
        epoch = PretrainingEpoch(self.stage + 1, number, float(np.mean(losses)), float(np.mean(right)), seconds)
        self.history.append(epoch)
        self._save()
        return epoch

    def _step(self, crops: Tensor, step_of_epoch: int) -> tuple[float, float]:
        per_epoch = batches_per_epoch(len(self.train), self.recipe)
        step = len(self.history) % self.plan.epochs * per_epoch + step_of_epoch
        for group in self.optimiser.param_groups:
            group["lr"] = learning_rate(step, self.plan.epochs * per_epoch, self.recipe)
        clusters = self.clusters.of(self._features(self.stage, crops))
        mask = hidden_frames(len(crops), clusters.shape[1], self.plan.hidden_share, self.generator)
        with self._precision():
            logits = self.task(crops, mask)
        loss = torch.nn.functional.cross_entropy(logits.float(), clusters[mask])
        self.optimiser.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(self.task.parameters(), self.recipe.gradient_limit)
        self.optimiser.step()
        return float(loss.detach()), float((logits.argmax(1) == clusters[mask]).float().mean())

    def _precision(self) -> torch.autocast:
        return torch.autocast("cpu", torch.bfloat16, enabled=self.recipe.precision == "bfloat16")

    def _save(self) -> None:
        with (self.out / HISTORY_NAME).open("a") as lines:
            lines.write(json.dumps(asdict(self.history[-1])) + "\n")
        facts = {**self.facts, "pretraining": {**msgspec.to_builtins(self.plan), "done": asdict(self.history[-1])}}
        save_checkpoint(self.out / BEST_NAME, self.network, self.preset.describe(), self.signal, [],
                        list(STANDARD_LEADS), facts, self.preset.kind)  # fmt: skip
        state = {
            "of": self._identity(),
            "stage": self.stage,
            "clusters": vars(self.clusters),
            "teacher": self.teacher.state_dict(),
            "task": self.task.state_dict(),
            "optimiser": self.optimiser.state_dict(),
            "torch_rng": torch.get_rng_state(),
            "mask_rng": self.generator.get_state(),
            "numpy_rng": json.dumps(self.rng.bit_generator.state),
            "history": [asdict(epoch) for epoch in self.history],
        }
        partial = self.out / f"{LAST_NAME}.partial"
        torch.save(state, partial)
        partial.replace(self.out / LAST_NAME)

    def _resume(self) -> None:
        """Go on from the last finished epoch if this very run was begun here."""
        path = self.out / LAST_NAME
        if not path.is_file():
            return
        state = torch.load(path, weights_only=True)
        if state.get("of") != self._identity():
            raise RunMismatchError(self.out, "another preset or other records")
        self.teacher = copy.deepcopy(self.network).eval()
        self.teacher.load_state_dict(state["teacher"])
        self._set_stage(state["stage"], Clusters(**state["clusters"]))
        self.task.load_state_dict(state["task"])
        self.optimiser.load_state_dict(state["optimiser"])
        torch.set_rng_state(state["torch_rng"])
        self.generator.set_state(state["mask_rng"])
        self.rng.bit_generator.state = json.loads(state["numpy_rng"])
        self.history = [PretrainingEpoch(**epoch) for epoch in state["history"]]

    def _identity(self) -> str:
        what = [self.preset.describe(), msgspec.to_builtins(self.plan), len(self.train), self.seed]
        return json.dumps(what, sort_keys=True)


def recipe_of(preset: Preset) -> TrainingPreset:
    """Return how batches are made and steps are taken: the preset's training, with what pre-training has of its own."""
    assert preset.pretraining is not None
    own = {name: getattr(preset.pretraining, name) for name in ("batch_size", "learning_rate", "weight_decay")}
    return msgspec.structs.replace(preset.training, schedule="one_cycle", mixup=0.0, carried_share=0.0, **own)
