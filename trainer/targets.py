"""What training aims at: the labels, softened by what other models say of records they were not trained on."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from edge.errors import RecordError
from trainer.data import Split
from trainer.label_share import of_share
from trainer.preset import TrainingPreset
from trainer.ptbxl import CLASSES, PtbXl

Float32Array = NDArray[np.float32]
SOFT_LABELS_NAME = "soft_labels.safetensors"


@dataclass(frozen=True)
class SoftLabels:
    """A teacher's probabilities of records it was not trained on."""

    ecg_ids: NDArray[np.int64]  # (records,)
    probabilities: Float32Array  # (records, classes)
    classes: tuple[str, ...] = CLASSES

    def of(self, ecg_ids: NDArray[np.int64]) -> Float32Array:
        """Return the probabilities (records, classes) of these records; raises RecordError when one has none."""
        row_of = {int(ecg_id): row for row, ecg_id in enumerate(self.ecg_ids)}
        absent = [int(ecg_id) for ecg_id in ecg_ids if int(ecg_id) not in row_of]
        if absent:
            raise RecordError(f"the soft labels lack {len(absent)} records, the first is {absent[0]}: they must come "
                              "from the folds that are trained on")  # fmt: skip
        return self.probabilities[[row_of[int(ecg_id)] for ecg_id in ecg_ids]]

    def save(self, path: Path) -> None:
        """Write them to a file, whole or not at all."""
        partial = path.with_name(f"{path.name}.partial")
        classes = {"classes": " ".join(self.classes)}
        save_file({"ecg_ids": self.ecg_ids, "probabilities": self.probabilities}, partial, classes)
        partial.replace(path)


def load_soft_labels(path: Path, classes: tuple[str, ...] = CLASSES) -> SoftLabels:
    """Read what `SoftLabels.save` wrote of these classes; raises RecordError when it is something else."""
    try:
        with safe_open(path, framework="np") as stored:
            named = tuple((stored.metadata() or {}).get("classes", "").split(" "))
            soft = SoftLabels(stored.get_tensor("ecg_ids"), stored.get_tensor("probabilities"), named)
    except (OSError, SafetensorError) as error:
        raise RecordError(f"{path} holds no soft labels of `ecg-trainer cross-validate`: {error}") from None
    shaped = soft.ecg_ids.ndim == 1 and soft.probabilities.shape == (len(soft.ecg_ids), len(classes))
    are_probabilities = bool(((soft.probabilities >= 0) & (soft.probabilities <= 1)).all())
    if " ".join(named) != " ".join(classes) or not shaped or not are_probabilities:
        raise RecordError(f"{path} does not hold a probability per record and class {', '.join(classes)}")
    return soft


def refuse_teachers_of(soft_labels: Sequence[SoftLabels], ecg_ids: NDArray[np.int64]) -> None:
    """Raise RecordError when soft labels cover some of these records, on which the weights are chosen.

    Their teachers then learned from those records' labels, and so would whoever learns from them.
    """
    for soft in soft_labels:
        shared = np.intersect1d(soft.ecg_ids, ecg_ids)
        if len(shared):
            raise RecordError(f"the soft labels cover {len(shared)} of the records to tune on, whose labels their "
                              "teachers knew: cross-validate the folds to train on alone")  # fmt: skip


def named(path: Path) -> str:
    """Return the name of a file of soft labels with its folder's, which says whose they are."""
    return f"{path.resolve().parent.name}/{path.name}"


def with_targets(
    split: Split, data: PtbXl, rows: NDArray[np.int64], recipe: TrainingPreset, soft_labels: Sequence[SoftLabels],
    seed: int,
) -> Split:  # fmt: skip
    """Return a split of these rows that aims at what the recipe says: labels, soft labels, SCP statements.

    Several teachers' probabilities are averaged. Where the recipe uses the labels of some patients only, the seed says
    of which. Raises RecordError when it wants soft labels and there are none, or there are some it does not use.
    """
    if bool(soft_labels) != (recipe.soft_label_share > 0):
        raise RecordError("--soft-labels belongs to presets with soft_label_share above 0, and they need it")
    targets = split.labels
    if soft_labels:
        taught = np.mean([soft.of(data.ecg_ids[rows]) for soft in soft_labels], axis=0, dtype=np.float32)
        share = np.float32(recipe.soft_label_share)
        targets = (1 - share) * targets + share * taught
    if recipe.statements_weight > 0:
        targets = np.concatenate([targets, data.statements[rows]], axis=1)
    aimed = replace(split, targets=targets)
    if recipe.label_share == 1:
        return aimed
    return aimed.chosen(of_share(data.patient_ids[rows], recipe.label_share, seed))
