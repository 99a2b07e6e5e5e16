"""Pre-training without labels: the loop that all methods share, resumable after each epoch to the very same weights."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import torch
from torch import Tensor, nn

from edge.errors import ConfigError
from edge.runtime.manifest import SignalSpec
from edge.signal.leads import STANDARD_LEADS
from trainer.batches import Batch, batches, batches_per_epoch, random_crops, whole_frames
from trainer.checkpoint import save_checkpoint
from trainer.data import Split
from trainer.distributed import Workers, alone
from trainer.identity import records_hash
from trainer.kinds import build_model
from trainer.memory import give_back_freed_memory, keep_freed_memory
from trainer.mixed_precision import computed_in
from trainer.model import EcgMamba
from trainer.networks.hubert import Hubert
from trainer.objective import LEFT_ALONE, LEFT_ALONE_BEFORE, learning_rate, parameter_groups
from trainer.preset import Preset, TrainingPreset
from trainer.pretraining.byol import Byol
from trainer.pretraining.cpc import Cpc
from trainer.pretraining.masked_clusters import MaskedClusters
from trainer.pretraining.method import LossPass, Method, Surroundings
from trainer.pretraining.plans import DEFAULTS, FITS, ByolPlan, CpcPlan, MaskedClustersPlan, Plan, SimClrPlan
from trainer.pretraining.simclr import SimClr
from trainer.progress import progress
from trainer.run_folder import BEST_NAME, RunMismatchError, load_last, save_last

AS_TRAINED = ("gradient_limit", "precision", "crop_s", "carried_share", "gain_jitter", "noise_mv", "lead_dropout",
              "augment")  # fmt: skip
"""What a preset's training and pre-training have in common, unless the plan says other."""


@dataclass(frozen=True)
class PretrainingEpoch:
    """What one epoch gave; what the score is, the method says."""

    stage: int
    epoch: int
    loss: float
    score: float
    seconds: float


class Pretraining:
    """One run in a folder; OUT/best is what `ecg-trainer train --init` starts from. `run` continues what stands there.

    The method and its plan are what `plan_of` gives. workers: the processes that learn together; by default this one.
    """

    def __init__(
        self, preset: Preset, method: str, plan: Plan, signal: SignalSpec, train: Split, out: Path, seed: int,
        facts: dict[str, Any], workers: Workers | None = None,
    ) -> None:  # fmt: skip
        self.name, self.plan = method, plan
        self.preset, self.signal, self.train = preset, signal, train
        self.recipe, self.stride = recipe_of(preset, self.plan), getattr(preset.model, "stride", 1)
        self.workers = alone() if workers is None else workers
        precision = computed_in(self.recipe.precision, self.workers.device.type)
        self.out, self.facts, self.seed = out, {**facts, "seed": seed, "computed_in": precision}, seed
        torch.manual_seed(seed)
        self.rng, self.generator = np.random.default_rng(seed), torch.Generator().manual_seed(seed)
        self.network = self.workers.placed(build_model(preset.kind, preset.model))
        given = Surroundings(self.workers, self.recipe.precision, self.generator, seed, signal.rate_hz)
        self.method = build_method(self.network, self.plan, given)
        self.history: list[PretrainingEpoch] = []
        self.stage = -1
        self.left_alone = list(LEFT_ALONE)

    def run(self, on_epoch: Callable[[PretrainingEpoch], None] = lambda epoch: None) -> PretrainingEpoch:
        """Go through all stages; return the last epoch."""
        keep_freed_memory()
        self.out.mkdir(parents=True, exist_ok=True)
        self._resume()
        total = self.method.stages * self.plan.epochs
        with progress(shown=self.workers.first) as bar:
            task = bar.add_task("pre-training", total=total * self._steps, completed=len(self.history) * self._steps)
            while len(self.history) < total:
                if len(self.history) == (self.stage + 1) * self.plan.epochs:
                    self.method.begin_stage(self.stage + 1, self._sample)
                    self._enter(self.stage + 1)
                epoch = self._epoch(lambda: bar.advance(task))
                give_back_freed_memory()
                bar.update(task, description=f"stage {epoch.stage} · loss {epoch.loss:.4f}")
                on_epoch(epoch)
        return self.history[-1]

    @property
    def _steps(self) -> int:
        """Of one epoch."""
        return batches_per_epoch(len(self.train), self.recipe)

    def _sample(self, records: int) -> Tensor:
        rows = self.rng.permutation(len(self.train))[:records]
        samples = whole_frames(self.recipe.crop_s, self.signal.rate_hz, self.stride)
        return torch.from_numpy(random_crops(self.train.signals, rows, samples, self.rng))

    def _enter(self, stage: int) -> None:
        self.stage = stage
        self.method.trained = self.workers.placed(self.method.trained)
        self.forward = self.workers.replicated(LossPass(self.method), skips_layers=True)  # the head, if no more
        groups = parameter_groups(self.method.trained, self.recipe.weight_decay, self.left_alone)
        self.optimiser = torch.optim.AdamW(groups)

    def _epoch(self, on_step: Callable[[], None]) -> PretrainingEpoch:
        start_s = time.monotonic()
        losses: list[float] = []
        scores: list[float] = []
        self.workers.reseed(self.seed, len(self.history))
        self.method.trained.train()
        unlabelled = np.zeros((len(self.train), 0), np.float32)
        epoch_batches = batches(
            self.train.signals, unlabelled, self.recipe, self.signal, self.stride, self.rng, self.method.views
        )
        for batch in epoch_batches:
            loss, score = self._step(batch, len(losses))
            losses.append(loss)
            scores.append(score)
            on_step()
        number = len(self.history) % self.plan.epochs + 1
        seconds = time.monotonic() - start_s
        epoch = PretrainingEpoch(self.stage + 1, number, float(np.mean(losses)), float(np.mean(scores)), seconds)
        self.history.append(epoch)
        self._save()
        return epoch

    def _step(self, batch: Batch, step_of_epoch: int) -> tuple[float, float]:
        step = len(self.history) % self.plan.epochs * self._steps + step_of_epoch
        for group in self.optimiser.param_groups:
            group["lr"] = learning_rate(step, self.plan.epochs * self._steps, self.recipe)
        loss, score = self.forward(self.workers.share(batch, self.method.views))
        self.optimiser.zero_grad(set_to_none=True)
        (loss * self.workers.count).backward()
        torch.nn.utils.clip_grad_norm_(self.method.trained.parameters(), self.recipe.gradient_limit)
        self.optimiser.step()
        self.method.stepped()
        return float(loss.detach()), score

    def _save(self) -> None:
        learned = self.method.state()
        if not self.workers.first:
            return
        done = {"method": self.name, **msgspec.to_builtins(self.plan), "done": asdict(self.history[-1])}
        save_checkpoint(self.out / BEST_NAME, self.network, self.preset.describe(), self.signal, [],
                        list(STANDARD_LEADS), {**self.facts, "pretraining": done}, self.preset.kind)  # fmt: skip
        state = {
            "of": self._identity(),
            "records": records_hash(self.train),
            "left_alone": self.left_alone,
            "stage": self.stage,
            "method": learned,
            "optimiser": self.optimiser.state_dict(),
            "torch_rng": torch.get_rng_state(),
            "method_rng": self.generator.get_state(),
            "numpy_rng": json.dumps(self.rng.bit_generator.state),
            "history": [asdict(epoch) for epoch in self.history],
        }
        save_last(self.out, asdict(self.history[-1]), state)

    def _resume(self) -> None:
        """Go on from the last finished epoch if this very run was begun here."""
        state = self.workers.agreed(lambda: load_last(self.out))
        if state is None:
            return
        if state.get("of") != self._identity():
            raise RunMismatchError(self.out, "another preset or seed, or other records")
        if state.get("records", records_hash(self.train)) != records_hash(self.train):
            raise RunMismatchError(self.out, "other records to learn from (--folds, --limit)")
        self.left_alone = list(state.get("left_alone", LEFT_ALONE_BEFORE))
        self.method.restore(state["stage"], state["method"])
        self._enter(state["stage"])
        self.optimiser.load_state_dict(state["optimiser"])
        torch.set_rng_state(state["torch_rng"])
        self.generator.set_state(state["method_rng"])
        self.rng.bit_generator.state = json.loads(state["numpy_rng"])
        self.history = [PretrainingEpoch(**epoch) for epoch in state["history"]]

    def _identity(self) -> str:
        return json.dumps([identity_of(self.preset, self.name, self.plan), len(self.train), self.seed])


def build_method(network: nn.Module, plan: Plan, given: Surroundings) -> Method:
    """Return the method of a plan for a network."""
    if isinstance(plan, SimClrPlan):
        return SimClr(network, plan, given)
    if isinstance(plan, ByolPlan):
        return Byol(network, plan, given)
    if isinstance(plan, CpcPlan):
        assert isinstance(network, EcgMamba)
        return Cpc(network, plan, given)
    assert isinstance(plan, MaskedClustersPlan)
    assert isinstance(network, Hubert)
    return MaskedClusters(network, plan, given)


def plan_of(preset: Preset, method: str | None = None) -> tuple[str, Plan]:
    """Return a method and the preset's plan for it, or the method's defaults; unless named, the one the preset has.

    Raises ConfigError when that is not one, or there is no such method, or it is for another kind of network.
    """
    stated = preset.pretraining.stated()
    if method is None:
        if len(stated) != 1:
            has = f"it has plans for {', '.join(stated)}" if stated else "it has no [pretraining]"
            raise ConfigError(preset.name, (f"{has}: name one method of {', '.join(DEFAULTS)} with --method",))
        (method,) = stated
    if method not in DEFAULTS:
        raise ConfigError(preset.name, (f"{method} is no method; the methods are {', '.join(DEFAULTS)}",))
    if FITS.get(method, preset.kind) != preset.kind:
        raise ConfigError(preset.name, (f"{method} is for kind {FITS[method]}, not {preset.kind}",))
    return method, stated.get(method, DEFAULTS[method])


def identity_of(preset: Preset, method: str, plan: Plan) -> str:
    """Return everything that decides what comes out, but for records and seed; what is said of labels does not."""
    described = preset.describe()
    shape = {name: value for name, value in described["model"].items() if name != "vote_hops"}  # how it is asked later
    model = [described["kind"], shape, described["signal"]]
    recipe = msgspec.to_builtins(recipe_of(preset, plan))
    return json.dumps([model, recipe, method, msgspec.to_builtins(plan)], sort_keys=True)


def recipe_of(preset: Preset, plan: Plan) -> TrainingPreset:
    """Return how batches are made and steps are taken: by the plan, else as the preset trains."""
    recipe = {name: getattr(preset.training, name) for name in AS_TRAINED}
    own = {name: getattr(plan, name) for name in ("epochs", "batch_size", "learning_rate", "weight_decay")}
    named = {name: value for name in ("crop_s", "augment") if (value := getattr(plan, name)) is not None}
    return TrainingPreset(**{**recipe, **own, **named})
