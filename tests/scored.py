"""Records with logits and the truth behind them, made so that what is wrong with the logits is known."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy.special import expit


def records_off_by(
    scale: float, bias: float, records: int = 20_000, seed: int = 0
) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    """Return logits (records,) of a model that is off by this scale and bias, and the truth."""
    rng = np.random.default_rng(seed)
    logits = rng.normal(0, 2, records)
    return logits, rng.random(records) < expit(scale * logits + bias)


def records_that_lean(records: int = 20_000, seed: int = 0) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Return logits and labels (records, 2): the second class is told too readily wherever the first is."""
    rng = np.random.default_rng(seed)
    logits = rng.normal(0, 2, (records, 2)).astype(np.float32)
    truth = expit(np.stack([logits[:, 0], logits[:, 1] - 0.6 * logits[:, 0]], axis=1))
    return logits, (rng.random((records, 2)) < truth).astype(np.float32)
