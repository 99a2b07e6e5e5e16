"""Models that know exactly one label a record: their outputs compete, and a class's probability is a softmax's."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from edge.errors import ConfigError
from edge.runtime.base import log_odds
from trainer.data import Split
from trainer.preset import TrainingPreset

Float32Array = NDArray[np.float32]


def is_single_label(recipe: TrainingPreset) -> bool:
    """Whether a recipe knows exactly one label a record, and so the records that have one."""
    return recipe.loss == "cross_entropy"


def only_single_label(split: Split, recipe: TrainingPreset) -> Split:
    """Keep the records with exactly one label where the loss asks for it; raises ConfigError for a single class."""
    if not is_single_label(recipe):
        return split
    if len(split.classes) < 2:
        fault = f'loss = "cross_entropy" chooses between classes, and {", ".join(split.classes)} is the only one'
        raise ConfigError("[training]", (fault,))
    return split.chosen(split.labels.sum(1) == 1)


def each_by_itself(logits: Float32Array, recipe: TrainingPreset) -> Float32Array:
    """Return logits (records, classes) whose sigmoids are the probabilities that a model of this recipe gives.

    The outputs of a softmax say nothing by themselves: one number more for all of a record's is the same answer, and
    would move it in the order of each class.
    """
    return log_odds(logits).astype(np.float32) if is_single_label(recipe) else logits
