"""What the epochs of a training gave, which of them is kept, and whether there are more to come."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from trainer.preset import TrainingPreset


@dataclass(frozen=True)
class Epoch:
    """What one epoch gave."""

    epoch: int
    loss: float
    macro_auc: float
    accuracy: float
    seconds: float
    macro_auprc: float = float("nan")


def best_of(history: Sequence[Epoch], recipe: TrainingPreset) -> Epoch:
    """Return the epoch whose weights are kept: the first of the best, so that standing still is not progress."""
    return history[-1] if recipe.keep == "last" else max(history, key=lambda epoch: epoch.macro_auc)


def is_finished(history: Sequence[Epoch], recipe: TrainingPreset) -> bool:
    """Whether all epochs are done, or the best is so long ago that patience has run out."""
    if not history:
        return False
    last = history[-1].epoch
    return last >= recipe.epochs or last - best_of(history, recipe).epoch >= recipe.patience_epochs


def read_history(path: Path) -> list[Epoch]:
    """Read the epochs that a training has written so far, one JSON object a line; none where there is no such file.

    An epoch that was done again after a kill stands twice, and counts once; a line that the kill tore does not count.
    """
    lines = path.read_text().splitlines() if path.is_file() else []
    epochs: dict[int, Epoch] = {}
    for line in lines:
        try:
            epoch = Epoch(**json.loads(line))
        except (ValueError, TypeError):
            continue
        epochs[epoch.epoch] = epoch
    return [epochs[number] for number in sorted(epochs)]
