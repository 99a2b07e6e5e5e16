"""The training loop: resumes where it was killed, keeps the averaged weights that tune best."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from sklearn.metrics import roc_auc_score
from torch import Tensor
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from edge.errors import EcgEdgeError
from edge.runtime.manifest import SignalSpec
from edge.signal.leads import STANDARD_LEADS
from trainer.batches import Batch, batches, batches_per_epoch
from trainer.checkpoint import save_checkpoint
from trainer.data import Split
from trainer.model import EcgMamba, State
from trainer.predict import BATCH_RECORDS, forward
from trainer.preset import Preset, TrainingPreset
from trainer.progress import progress
from trainer.ptbxl import CLASSES

LAST_NAME = "last.pt"
BEST_NAME = "best"
HISTORY_NAME = "metrics.jsonl"


@dataclass(frozen=True)
class Epoch:
    """What one epoch gave."""

    epoch: int
    loss: float
    macro_auc: float
    accuracy: float
    seconds: float


class RunMismatchError(EcgEdgeError):
    """The folder holds a run that this one cannot go on with."""

    def __init__(self, out: Path, difference: str) -> None:
        self.out = out
        super().__init__(f"{out} holds a run of {difference}: choose another --out, or start over with --fresh")


class Trainer:
    """One training run in a folder. `run` continues a run that stands there."""

    def __init__(
        self, preset: Preset, signal: SignalSpec, train: Split, tune: Split, out: Path, seed: int, facts: dict[str, Any]
    ) -> None:
        """facts: what the checkpoint should say of how it was made, beside what the run itself finds."""
        self.preset, self.recipe, self.signal = preset, preset.training, signal
        self.train, self.tune = only_single_label(train, self.recipe), only_single_label(tune, self.recipe)
        self.out, self.facts = out, {**facts, "seed": seed}
        torch.manual_seed(seed)
        self.rng = np.random.default_rng(seed)
        self.model = EcgMamba(preset.model)
        decay = self.recipe.average_decay
        self.average = AveragedModel(self.model, multi_avg_fn=get_ema_multi_avg_fn(decay))  # type: ignore[no-untyped-call]
        self.optimiser = torch.optim.AdamW(parameter_groups(self.model, self.recipe.weight_decay), fused=False)
        self.steps = self.recipe.epochs * batches_per_epoch(len(self.train.signals), self.recipe)
        self.history: list[Epoch] = []
        self.step = 0

    def run(self, on_epoch: Callable[[Epoch], None] = lambda epoch: None) -> Epoch:
        """Train to the end or until tuning no longer improves; return the best epoch."""
        self.out.mkdir(parents=True, exist_ok=True)
        self._resume()
        with progress() as bar:
            task = bar.add_task("training", total=self.steps, completed=self.step)
            while len(self.history) < self.recipe.epochs and not self._out_of_patience():
                epoch = self._epoch(lambda: bar.advance(task))
                bar.update(task, description=f"epoch {epoch.epoch} · loss {epoch.loss:.4f} · AUC {epoch.macro_auc:.4f}")
                on_epoch(epoch)
        return self.best

    @property
    def best(self) -> Epoch:
        """The epoch whose weights are kept: the first of the best, so that standing still is not progress."""
        return max(self.history, key=lambda epoch: epoch.macro_auc)

    def _epoch(self, on_step: Callable[[], None]) -> Epoch:
        start_s, losses = time.monotonic(), []
        self.model.train()
        std_mv = float(np.mean(self.signal.std_mv))
        stride = self.preset.model.stride
        epoch_batches = batches(
            self.train.signals, self.train.labels, self.recipe, self.signal.rate_hz, stride, std_mv, self.rng
        )
        for batch in epoch_batches:
            losses.append(self._step(batch))
            on_step()
        logits = predict(self.evaluated_model(), self.tune.signals)
        epoch = Epoch(
            epoch=len(self.history) + 1,
            loss=float(np.mean(losses)),
            macro_auc=macro_auc(self.tune.labels, logits),
            accuracy=float((logits.argmax(1) == self.tune.labels.argmax(1)).mean()),
            seconds=time.monotonic() - start_s,
        )
        self.history.append(epoch)
        if epoch is self.best:
            self._keep_best()
        self._save_last()
        return epoch

    def _step(self, batch: Batch) -> float:
        for group in self.optimiser.param_groups:
            group["lr"] = learning_rate(self.step, self.steps, self.recipe)
        state = carried_state(self.model, batch)
        logits, _ = self.model(batch.crops, state)
        loss = loss_of(logits, batch.labels, self.recipe)
        self.optimiser.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), self.recipe.gradient_limit)
        self.optimiser.step()
        self.average.update_parameters(self.model)
        self.step += 1
        return float(loss.detach())

    def evaluated_model(self) -> EcgMamba:
        """The model whose weights are kept: the averaged one, or the last one where nothing is averaged."""
        return self.average.module if self.recipe.average_decay > 0 else self.model  # type: ignore[return-value]

    def _out_of_patience(self) -> bool:
        return bool(self.history) and self.history[-1].epoch - self.best.epoch >= self.recipe.patience_epochs

    def _keep_best(self) -> None:
        training = {**self.facts, "epochs": len(self.history), "tuning": self.history[-1].__dict__}
        save_checkpoint(
            self.out / BEST_NAME, self.evaluated_model(), self.preset.describe(), self.signal, list(CLASSES),
            list(STANDARD_LEADS), training,
        )  # fmt: skip

    def _save_last(self) -> None:
        with (self.out / HISTORY_NAME).open("a") as lines:
            lines.write(json.dumps(self.history[-1].__dict__) + "\n")
        state = {
            "preset": json.dumps(self.preset.describe(), sort_keys=True),
            "records": len(self.train.signals),
            "model": self.model.state_dict(),
            "average": self.average.state_dict(),
            "optimiser": self.optimiser.state_dict(),
            "torch_rng": torch.get_rng_state(),
            "numpy_rng": json.dumps(self.rng.bit_generator.state),
            "history": [epoch.__dict__ for epoch in self.history],
            "step": self.step,
        }
        partial = self.out / f"{LAST_NAME}.partial"
        torch.save(state, partial)
        partial.replace(self.out / LAST_NAME)

    def _resume(self) -> None:
        """Go on from the last finished epoch if this very recipe was begun here."""
        path = self.out / LAST_NAME
        if not path.is_file():
            return
        state = torch.load(path, weights_only=True)
        if state["preset"] != json.dumps(self.preset.describe(), sort_keys=True):
            raise RunMismatchError(self.out, "another preset")
        if state["records"] != len(self.train.signals):
            raise RunMismatchError(self.out, "other records")
        self.model.load_state_dict(state["model"])
        self.average.load_state_dict(state["average"])
        self.optimiser.load_state_dict(state["optimiser"])
        torch.set_rng_state(state["torch_rng"])
        self.rng.bit_generator.state = json.loads(state["numpy_rng"])
        self.history = [Epoch(**epoch) for epoch in state["history"]]
        self.step = state["step"]


def carried_state(model: EcgMamba, batch: Batch) -> State:
    """Return the state a batch's crops start from: what other records left behind, detached, or nothing.

    The window's pool starts empty in any case: what went before is left out of the loss.
    """
    state = model.initial_state(len(batch.crops))
    if batch.before is None:
        return state
    with torch.no_grad():
        _, after = model.encode(batch.before, state)
    return state | after


def loss_of(logits: Tensor, labels: Tensor, recipe: TrainingPreset) -> Tensor:
    """Binary cross-entropy per class, or cross-entropy over classes where records have one label."""
    if recipe.loss == "cross_entropy":
        return F.cross_entropy(logits, labels.argmax(1))
    return F.binary_cross_entropy_with_logits(logits, labels)


def learning_rate(step: int, steps: int, recipe: TrainingPreset) -> float:
    """One cycle (Smith & Topin 2017): a linear rise over the first 15 %, then half a cosine down to a thousandth."""
    if recipe.schedule == "constant":
        return recipe.learning_rate
    rise = max(1, round(0.15 * steps))
    if step < rise:
        return recipe.learning_rate * (0.04 + 0.96 * step / rise)
    share = (step - rise) / max(1, steps - rise)
    return recipe.learning_rate * (1e-3 + (1 - 1e-3) * 0.5 * (1 + math.cos(math.pi * min(1.0, share))))


def parameter_groups(model: EcgMamba, weight_decay: float) -> list[dict[str, Any]]:
    """Decay matrices only; biases, norms and the dynamics (A_log, D) are left as they are (mamba_ssm does the same)."""
    decayed: list[Tensor] = []
    kept: list[Tensor] = []
    for name, parameter in model.named_parameters():
        (kept if parameter.ndim < 2 or name.endswith(("A_log", ".D")) else decayed).append(parameter)
    return [{"params": decayed, "weight_decay": weight_decay}, {"params": kept, "weight_decay": 0.0}]


def predict(model: EcgMamba, signals: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return the logits (records, classes) of whole records, each from a cold state; the model's mode stays."""
    was_training = model.training
    model.eval()
    starts = range(0, len(signals), BATCH_RECORDS)
    parts = [forward(model, signals[start : start + BATCH_RECORDS]) for start in starts]
    model.train(was_training)
    return np.concatenate(parts)


def macro_auc(labels: NDArray[np.float32], logits: NDArray[np.float32]) -> float:
    """Mean area under the ROC curve over the classes that have both kinds of records."""
    present = [k for k in range(labels.shape[1]) if 0 < labels[:, k].sum() < len(labels)]
    return float(np.mean([roc_auc_score(labels[:, k], logits[:, k]) for k in present])) if present else float("nan")


def only_single_label(split: Split, recipe: TrainingPreset) -> Split:
    """Keep the records with exactly one label where the loss asks for it."""
    if recipe.loss != "cross_entropy":
        return split
    single = split.labels.sum(1) == 1
    return Split(split.signals[single], split.labels[single])
