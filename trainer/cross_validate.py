"""Cross-validation by folds: several trainings that each leave some folds out, and what they say of those.

PTB-XL's folds hold whole patients, so no patient is on both sides. What comes out are probabilities for every record
from a model that never saw it, calibrated on the other parts' records: an honest figure, and soft labels to teach
another model with (Hinton et al. 2015).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edge.errors import RecordError
from edge.runtime.base import calibrated
from trainer.calibration import fit_calibration, identity
from trainer.data import prepared
from trainer.history import Epoch
from trainer.one_label import is_single_label
from trainer.preset import Preset
from trainer.ptbxl import PtbXl
from trainer.targets import SoftLabels, with_targets
from trainer.train import Trainer, accuracy, macro_auc, macro_average_precision


@dataclass(frozen=True)
class Part:
    """One training's folds: what it learns from, what it chooses its epoch on, what it is asked about."""

    train: list[int]
    tune: list[int]
    held_out: list[int]


@dataclass(frozen=True)
class PartResult:
    """What one training says of the folds it left out, and how well."""

    part: Part
    figures: dict[str, float]
    """macro_auc, macro_auprc and accuracy on the held-out folds."""
    ecg_ids: NDArray[np.int64]  # (records,) of the held-out folds
    logits: NDArray[np.float32]  # (records, classes)
    labels: NDArray[np.float32]  # (records, classes)


def parts_of(folds: Sequence[int], count: int, choose_epoch: bool) -> list[Part]:
    """Split folds into `count` parts of neighbours; raises RecordError when there are too few folds.

    Where the epoch is chosen by its figures, that happens on the folds of the next part, which are then not trained on:
    what is reported had no say in what is kept. Otherwise the tuning folds are the held-out ones, only to be watched.
    """
    if not 2 + choose_epoch <= count <= len(folds):
        raise RecordError(f"{len(folds)} folds cannot be cross-validated in {count} parts")
    groups = [[int(fold) for fold in group] for group in np.array_split(sorted(folds), count)]
    parts = []
    for k, held_out in enumerate(groups):
        tune = groups[(k + 1) % count] if choose_epoch else held_out
        parts.append(Part(sorted(set(folds) - set(held_out) - set(tune)), tune, held_out))
    return parts


def run_part(
    preset: Preset, data: PtbXl, part: Part, out: Path, seed: int, facts: dict[str, Any], limit: int | None,
    on_epoch: Callable[[Epoch], None],
) -> PartResult:  # fmt: skip
    """Train one part in its folder, going on where it was interrupted, and ask it about its held-out folds."""
    rows = {name: data.rows(folds)[:limit] for name, folds in (("train", part.train), ("held_out", part.held_out))}
    others = [data.rows(part.tune)[:limit], rows["held_out"]]
    signal, train, (tune, held_out) = prepared(data, rows["train"], others, preset.signal)
    train = with_targets(train, data, rows["train"], preset.training, [], seed)
    trainer = Trainer(preset, signal, train, tune, out, seed, {**facts, "folds": part.train, "tune_folds": part.tune})
    trainer.run(on_epoch=on_epoch)
    logits = trainer.kept_logits(held_out.signals)
    measured = held_out.labels.sum(1) == 1 if is_single_label(preset.training) else np.ones(len(held_out), bool)
    asked, said = held_out.labels[measured], logits[measured]
    figures = {
        "macro_auc": macro_auc(asked, said),
        "macro_auprc": macro_average_precision(asked, said),
        "accuracy": accuracy(asked, said),
    }
    return PartResult(part, figures, data.ecg_ids[rows["held_out"]], logits, held_out.labels)


def joined(results: Sequence[PartResult], classes: tuple[str, ...]) -> SoftLabels:
    """Return the soft labels of all parts, in the order of the records; each part is calibrated on the others'."""
    ecg_ids = np.concatenate([result.ecg_ids for result in results])
    logits = np.concatenate([result.logits for result in results])
    labels = np.concatenate([result.labels for result in results])
    number = np.repeat(np.arange(len(results)), [len(result.ecg_ids) for result in results])
    probabilities = np.empty_like(logits)
    for k in range(len(results)):
        apart, here = number != k, number == k
        probabilities[here] = calibrated(
            fit_calibration(identity(len(classes)), logits[apart], labels[apart]), logits[here]
        )
    order = np.argsort(ecg_ids)
    return SoftLabels(ecg_ids[order], probabilities[order], classes)
