"""Augmentations of time: a heart that beats faster or slower, a record that begins elsewhere, moments that are lost.

Signals are (records, samples, leads) in millivolts; what comes back is a new array of the same shape. The same
generator state gives the same result.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Float32Array = NDArray[np.float32]

KNOT_S = 2.5
"""How often a warped heart changes its mind."""


def heart_rate_warp(
    ecg: Float32Array, rate_hz: int, rng: np.random.Generator, most: float = 0.05
) -> Float32Array:  # fmt: skip
    """Play each record at a speed that drifts smoothly within 1 ± `most`, all its leads alike.

    What lies beyond the ends is mirrored in. Samples are interpolated linearly.
    """
    records, samples, _ = ecg.shape
    knots = np.arange(int(samples / (KNOT_S * rate_hz)) + 2) * KNOT_S * rate_hz
    speeds = rng.uniform(1 - most, 1 + most, (records, len(knots)))
    positions = np.cumsum([np.interp(np.arange(samples), knots, of_record) for of_record in speeds], axis=1)
    positions += (samples - 1) / 2 - positions.mean(1, keepdims=True)
    return at_positions(ecg, positions)


def time_shift(ecg: Float32Array, rate_hz: int, rng: np.random.Generator, most_s: float = 0.5) -> Float32Array:
    """Move each record by up to `most_s` either way; its first or last sample fills the place it leaves."""
    records, samples, _ = ecg.shape
    shifts = rng.integers(-round(most_s * rate_hz), round(most_s * rate_hz) + 1, (records, 1))
    sources = np.clip(np.arange(samples) - shifts, 0, samples - 1)
    return np.asarray(np.take_along_axis(ecg, sources[:, :, None], axis=1), np.float32)


def temporal_dropout(
    ecg: Float32Array, rate_hz: int, rng: np.random.Generator, longest_s: float = 0.3, gaps: int = 2
) -> Float32Array:
    """Lose up to `gaps` moments of each record, at most `longest_s` each, and draw a straight line across them.

    All leads lose the same moments, as a transmission does. The first and the last sample are never lost.
    """
    changed: Float32Array = ecg.copy()
    samples = ecg.shape[1]
    longest = min(max(1, round(longest_s * rate_hz)), samples - 2)
    for record, count in zip(changed, rng.integers(0, gaps + 1, len(ecg)), strict=True):
        for length in rng.integers(1, longest + 1, count):
            start = int(rng.integers(1, samples - length))
            record[start : start + length] = _line(record[start - 1], record[start + length], int(length))
    return changed


def at_positions(ecg: Float32Array, positions: NDArray[np.float64]) -> Float32Array:
    """Read records (records, samples, leads) between their samples, at (records, wanted); mirrored beyond the ends."""
    last = ecg.shape[1] - 1
    inside = last - np.abs(last - np.abs(positions))
    before = np.minimum(inside.astype(np.int64), last - 1)
    share = (inside - before).astype(np.float32)[:, :, None]
    left = np.take_along_axis(ecg, before[:, :, None], axis=1)
    right = np.take_along_axis(ecg, before[:, :, None] + 1, axis=1)
    return np.asarray(left + share * (right - left), np.float32)


def _line(before: Float32Array, after: Float32Array, samples: int) -> Float32Array:
    share = (np.arange(1, samples + 1, dtype=np.float32) / np.float32(samples + 1))[:, None]
    return np.asarray(before + share * (after - before), np.float32)
