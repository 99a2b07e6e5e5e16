"""The training loop: resumes where it was killed, keeps the averaged weights that tune best."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.metrics import average_precision_score, roc_auc_score
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from edge.errors import ConfigError, EcgEdgeError
from edge.runtime.manifest import SignalSpec
from edge.signal.leads import STANDARD_LEADS
from trainer.batches import Batch, batches, batches_per_epoch, random_crops, whole_frames
from trainer.checkpoint import load_checkpoint, save_checkpoint
from trainer.data import Split
from trainer.distributed import Workers, alone
from trainer.frozen import freeze, settle, train_mode
from trainer.history import Epoch, best_of, is_finished
from trainer.identity import differences, run_identity
from trainer.kinds import build_model, narrowed, record_logits, with_outputs
from trainer.memory import give_back_freed_memory, keep_freed_memory
from trainer.mixed_precision import computed_in, mixed_precision
from trainer.model import State
from trainer.objective import (
    LEFT_ALONE,
    LEFT_ALONE_BEFORE,
    TrainingPass,
    learning_rate,
    loss_of,
    parameter_groups,
    positive_weights,
)
from trainer.one_label import each_by_itself, only_single_label
from trainer.predict import BATCH_RECORDS
from trainer.preset import Preset, TrainingPreset, same_recipe
from trainer.progress import progress
from trainer.run_folder import BEST_NAME, RunMismatchError, load_last, save_last
from trainer.statistics import has_statistics, measure_statistics
from trainer.transfer import start_from

STATISTICS_RECORDS = 1024
"""Batch normalisation of averaged weights is measured on so many records."""


class DivergedError(EcgEdgeError):
    """The loss is no number any more."""

    def __init__(self, epoch: int, recipe: TrainingPreset) -> None:
        rate = f"learning_rate (it is {recipe.learning_rate:g})"
        super().__init__(f"the training diverged in epoch {epoch}: its loss is no number; lower {rate} and start over")


class Trainer:
    """One training run in a folder. `run` continues a run that stands there."""

    def __init__(
        self, preset: Preset, signal: SignalSpec, train: Split, tune: Split, out: Path, seed: int,
        facts: dict[str, Any], start: Path | None = None, workers: Workers | None = None,
    ) -> None:  # fmt: skip
        """facts: what the checkpoint should say of how it was made, beside what the run itself finds.

        start: what to begin with instead of fresh weights, see `trainer.transfer`. The task of the training records
        decides how many outputs there are. workers: the processes that train together; by default this one alone.
        """
        self.workers = alone() if workers is None else workers
        self.preset, self.recipe, self.signal = preset.for_classes(len(train.classes)), preset.training, signal
        self.train, self.tune = only_single_label(train, self.recipe), only_single_label(tune, self.recipe)
        precision = computed_in(self.recipe.precision, self.workers.device.type)
        self.out, self.facts, self.seed = out, {**facts, "seed": seed, "computed_in": precision}, seed
        torch.manual_seed(seed)
        self.rng = np.random.default_rng(seed)
        self.targets = self.train.aims
        self.identity = run_identity(seed, self.train, self.tune)
        self.positive_weight = positive_weights(self.train.labels, self.recipe, self.workers.device)
        model = build_model(preset.kind, with_outputs(preset.model, self.targets.shape[1]))
        if has_statistics(model) and min(self.recipe.batch_size, len(self.train.signals)) < 2:
            raise ConfigError(preset.name, ("batch normalisation needs two records in a batch at least",))
        if start is not None:
            start_from(model, start)
        self.model = self.workers.placed(model)
        if self.recipe.frozen:
            self._freeze(settled=start is not None)
        self.forward = self.workers.replicated(TrainingPass(self.model), skips_layers=preset.kind == "hubert-ecg")
        averaging = get_ema_multi_avg_fn(self.recipe.average_decay)  # type: ignore[no-untyped-call]
        self.average = AveragedModel(self.model, multi_avg_fn=averaging, use_buffers=True)
        self._begin_optimiser(LEFT_ALONE)
        self.steps = self.recipe.epochs * batches_per_epoch(len(self.train.signals), self.recipe)
        self.history: list[Epoch] = []
        self.step = 0
        self.left_behind: State = {}

    def run(self, on_epoch: Callable[[Epoch], None] = lambda epoch: None) -> Epoch:
        """Train to the end or until tuning no longer improves; return the best epoch."""
        keep_freed_memory()
        self.out.mkdir(parents=True, exist_ok=True)
        self._resume()
        with progress(shown=self.workers.first) as bar:
            task = bar.add_task("training", total=self.steps, completed=self.step)
            while not is_finished(self.history, self.recipe):
                epoch = self._epoch(lambda: bar.advance(task))
                bar.update(task, description=f"epoch {epoch.epoch} · loss {epoch.loss:.4f} · AUC {epoch.macro_auc:.4f}")
                on_epoch(epoch)
        return self.best

    @property
    def best(self) -> Epoch:
        """The epoch whose weights are kept."""
        return best_of(self.history, self.recipe)

    def _epoch(self, on_step: Callable[[], None]) -> Epoch:
        start_s, losses = time.monotonic(), []
        self.workers.reseed(self.seed, len(self.history))
        train_mode(self.model, self.recipe.frozen)
        stride = getattr(self.preset.model, "stride", 1)
        epoch_batches = batches(self.train.signals, self.targets, self.recipe, self.signal, stride, self.rng)
        for batch in epoch_batches:
            losses.append(self._step(batch))
            on_step()
        loss = self.workers.mean(float(np.mean(losses)))
        if not math.isfinite(loss):
            raise DivergedError(len(self.history) + 1, self.recipe)
        epoch = self.workers.agreed(lambda: self._measured(loss, start_s))
        self.history.append(epoch)
        left_behind = self.workers.joined(self.left_behind)
        if self.workers.first:
            if epoch is self.best:
                self._keep_best()
            self._save_last(left_behind)
        give_back_freed_memory()
        return epoch

    def _begin_optimiser(self, left_alone: Sequence[str]) -> None:
        """left_alone: what weight decay spares, see `parameter_groups`."""
        self.left_alone = list(left_alone)
        groups = parameter_groups(self.model, self.recipe.weight_decay, left_alone)
        self.optimiser = torch.optim.AdamW(groups, fused=False)

    def _freeze(self, settled: bool) -> None:
        if not settled:
            settle(self.model, self.train.signals, whole_frames(self.recipe.crop_s, self.signal.rate_hz, 1))
        freeze(self.model)

    def _measured(self, loss: float, start_s: float) -> Epoch:
        logits = self._logits(self.evaluated_model().eval(), self.tune.signals)
        return Epoch(
            epoch=len(self.history) + 1,
            loss=loss,
            macro_auc=macro_auc(self.tune.labels, logits),
            accuracy=accuracy(self.tune.labels, logits),
            seconds=time.monotonic() - start_s,
            macro_auprc=macro_average_precision(self.tune.labels, logits),
        )

    def _step(self, batch: Batch) -> float:
        for group in self.optimiser.param_groups:
            group["lr"] = learning_rate(self.step, self.steps, self.recipe)
        share = self.workers.share(batch)
        with self._mixed_precision():
            logits, self.left_behind = self.forward(share, self.left_behind)
        loss = loss_of(logits.float(), share.targets, len(self.train.classes), self.recipe, self.positive_weight)
        loss = loss * self.workers.weight(batch)
        self.optimiser.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), self.recipe.gradient_limit)
        self.optimiser.step()
        self.average.update_parameters(self.model)
        self.step += 1
        return float(loss.detach())

    def evaluated_model(self) -> nn.Module:
        """The model that is kept: of the averaged weights, or of the last ones where nothing is averaged."""
        averaged = self.recipe.average_decay > 0
        wide = self.average.module if averaged else self.model
        model = narrowed(self.preset.kind, self.preset.model, wide).to(self.workers.device)
        if averaged and not self.recipe.frozen and has_statistics(model):
            measure_statistics(model, self._plain_crops())
        return model

    def _plain_crops(self) -> Iterator[Tensor]:
        """Yield crops of some training records as they are, always the same ones."""
        rng, records = np.random.default_rng(self.seed), len(self.train.signals)
        rows = rng.permutation(records)[:STATISTICS_RECORDS]
        crop = whole_frames(self.recipe.crop_s, self.signal.rate_hz, 1)
        for part in np.array_split(rows, max(1, len(rows) // BATCH_RECORDS)):
            yield torch.from_numpy(random_crops(self.train.signals, part, crop, rng))

    def kept_logits(self, signals: NDArray[np.float32]) -> NDArray[np.float32]:
        """Return what the kept model says of whole records, (records, classes), each class by itself."""
        return self._logits(load_checkpoint(self.out / BEST_NAME).model.to(self.workers.device), signals)

    def _logits(self, model: nn.Module, signals: NDArray[np.float32]) -> NDArray[np.float32]:
        crop_samples = whole_frames(self.recipe.crop_s, self.signal.rate_hz, 1)
        starts = range(0, len(signals), BATCH_RECORDS)
        parts = [record_logits(model, signals[start : start + BATCH_RECORDS], crop_samples) for start in starts]
        return each_by_itself(np.concatenate(parts), self.recipe)

    def _mixed_precision(self) -> torch.autocast:
        return mixed_precision(self.recipe.precision, self.workers.device.type)

    def _keep_best(self) -> None:
        training = {**self.facts, "epochs": len(self.history), "tuning": asdict(self.history[-1])}
        save_checkpoint(
            self.out / BEST_NAME, self.evaluated_model(), self.preset.describe(), self.signal,
            list(self.train.classes), list(STANDARD_LEADS), training, self.preset.kind,
        )  # fmt: skip

    @property
    def _start(self) -> str:
        """Names what the weights started from, for a run that goes on."""
        init = self.facts.get("init")
        return json.dumps(init and {key: init[key] for key in ("name", "sha256") if key in init}, sort_keys=True)

    def _save_last(self, left_behind: State) -> None:
        state = {
            "preset": json.dumps(self.preset.describe(), sort_keys=True),
            "start": self._start,
            "records": len(self.train.signals),
            "identity": self.identity,
            "left_alone": self.left_alone,
            "model": self.model.state_dict(),
            "average": self.average.state_dict(),
            "optimiser": self.optimiser.state_dict(),
            "torch_rng": torch.get_rng_state(),
            "numpy_rng": json.dumps(self.rng.bit_generator.state),
            "history": [asdict(epoch) for epoch in self.history],
            "step": self.step,
            "left_behind": left_behind,
        }
        save_last(self.out, asdict(self.history[-1]), state)

    def _resume(self) -> None:
        """Go on from the last finished epoch if this very run was begun here."""
        state = self.workers.agreed(lambda: load_last(self.out))
        if state is None:
            return
        if not same_recipe(json.loads(state["preset"]), self.preset):
            raise RunMismatchError(self.out, "another preset")
        if state.get("start", "null") != self._start:
            raise RunMismatchError(self.out, "another start (--init)")
        differing = " and ".join(differences(state.get("identity", {}), self.identity))
        if differing:
            raise RunMismatchError(self.out, differing)
        if state["records"] != len(self.train.signals):
            raise RunMismatchError(self.out, "other records")
        self.model.load_state_dict(state["model"])
        self.average.load_state_dict(state["average"])
        self._begin_optimiser(state.get("left_alone", LEFT_ALONE_BEFORE))
        self.optimiser.load_state_dict(state["optimiser"])
        torch.set_rng_state(state["torch_rng"])
        self.rng.bit_generator.state = json.loads(state["numpy_rng"])
        self.history = [Epoch(**epoch) for epoch in state["history"]]
        self.step, self.left_behind = state["step"], self.workers.shares(state["left_behind"])


def macro_auc(labels: NDArray[np.float32], logits: NDArray[np.float32]) -> float:
    """Mean area under the ROC curve over the classes that have both kinds of records."""
    return _mean_over_classes(roc_auc_score, labels, logits)


def macro_average_precision(labels: NDArray[np.float32], logits: NDArray[np.float32]) -> float:
    """Mean average precision over the classes that have both kinds of records."""
    return _mean_over_classes(average_precision_score, labels, logits)


def accuracy(labels: NDArray[np.float32], logits: NDArray[np.float32]) -> float:
    """Share of records whose highest logit is a label of theirs first in order; of a single class, called at 0."""
    if labels.shape[1] == 1:
        return float(((logits > 0) == (labels > 0.5)).mean())
    return float((logits.argmax(1) == labels.argmax(1)).mean())


def _mean_over_classes(
    score: Callable[..., float], labels: NDArray[np.float32], logits: NDArray[np.float32]
) -> float:  # fmt: skip
    present = [k for k in range(labels.shape[1]) if 0 < labels[:, k].sum() < len(labels)]
    return float(np.mean([score(labels[:, k], logits[:, k]) for k in present])) if present else float("nan")
