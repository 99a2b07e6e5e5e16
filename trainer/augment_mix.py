"""Augmentations by a second record: two ECGs laid over one another, or a stretch of one put into another.

Signals are (records, samples, leads); the second record of each is another one of the same array. What comes back is
new and says how much of each record is left, for who has targets to mix alike.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Float32Array = NDArray[np.float32]


@dataclass(frozen=True)
class Mixed:
    """Records with something of others in them."""

    ecg: Float32Array  # (records, samples, leads)
    partners: NDArray[np.int64]  # (records,) the row each was mixed with
    kept: Float32Array  # (records,) the share of the record itself


def mixup(ecg: Float32Array, rate_hz: int, rng: np.random.Generator, concentration: float = 0.4) -> Mixed:
    """Lay another ECG over each, by a share from Beta(c, c), the larger one for the record itself.

    Zhang et al. 2018, arXiv:1710.09412. The rate makes no difference; every augmentation is given it.
    """
    partners = others(len(ecg), rng)
    drawn = rng.beta(concentration, concentration, len(ecg)).astype(np.float32)
    kept = np.maximum(drawn, 1 - drawn)
    share = kept[:, None, None]
    laid = np.asarray(share * ecg + (1 - share) * ecg[partners], np.float32)
    return Mixed(laid, partners, kept)


def segment_cutmix(
    ecg: Float32Array, rate_hz: int, rng: np.random.Generator, shortest_s: float = 0.5, longest_s: float = 1.25
) -> Mixed:
    """Put a stretch of another ECG into each, all leads, at the place it was cut from.

    Yun et al. 2019, arXiv:1905.04899, in one dimension. A stretch is never longer than half the record.
    """
    records, samples, _ = ecg.shape
    longest = min(round(longest_s * rate_hz), samples // 2)
    shortest = min(round(shortest_s * rate_hz), longest)
    lengths = rng.integers(shortest, longest + 1, records)
    starts = rng.integers(0, samples - lengths + 1)
    partners, time = others(records, rng), np.arange(samples)
    inside = (time >= starts[:, None]) & (time < (starts + lengths)[:, None])
    kept = (1 - lengths / samples).astype(np.float32)
    return Mixed(np.where(inside[:, :, None], ecg[partners], ecg), partners, kept)


def others(records: int, rng: np.random.Generator) -> NDArray[np.int64]:
    """Return for each record another one, drawn alike from all others; itself where it is alone."""
    if records < 2:
        return np.zeros(records, np.int64)
    return (np.arange(records) + rng.integers(1, records, records)) % records
