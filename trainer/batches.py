"""Training batches: crops of filtered records with small random changes, and whether state is carried into them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from edge.runtime.manifest import SignalSpec
from trainer.augment import augment
from trainer.preset import TrainingPreset

Float32Array = NDArray[np.float32]
Float64Array = NDArray[np.float64]


@dataclass(frozen=True)
class Batch:
    """One training step's input."""

    crops: Tensor  # (batch, crop samples, leads)
    targets: Tensor  # (batch, outputs)
    carried: bool
    """Whether the crops go on from the state that those of the batch before have left behind."""
    burn_in: int = 0
    """Frames at the beginning of the crops that nothing is asked about."""


def batches(
    signals: Float32Array, targets: Float32Array, preset: TrainingPreset, signal: SignalSpec, stride: int,
    rng: np.random.Generator, views: int = 1,
) -> Iterator[Batch]:  # fmt: skip
    """Yield one epoch of batches, (records, samples, leads) in random order, the last incomplete one left out.

    signal: how they were normalised, for what changes them in millivolts. The same generator state gives the same
    batches. Of several views, all records' first crops come before all their second ones, each cut and changed by
    itself.
    """
    rate_hz, mean_mv, std_mv = signal.rate_hz, np.array(signal.mean_mv), np.array(signal.std_mv)  # (leads,)
    crop = whole_frames(preset.crop_s, rate_hz, stride)
    size = min(preset.batch_size, len(signals))
    for chosen in record_batches(len(signals), size, preset.passes, rng):
        rows = np.tile(chosen, views)
        crops, aims = random_crops(signals, rows, crop, rng), targets[rows]
        if preset.augment:
            mean, std = np.float32(mean_mv), np.float32(std_mv)
            changed, aims = augment(crops * std + mean, aims, preset.augment, rate_hz, rng)
            crops = (changed - mean) / std
        crops, aims = mixed(augmented(crops, preset, std_mv, rng), aims, preset.mixup, rng)
        carried = bool(rng.random() < preset.carried_share)
        burn_in = whole_frames(preset.burn_in_s, rate_hz, stride) // stride if carried and preset.burn_in_s else 0
        yield Batch(torch.from_numpy(crops), torch.from_numpy(aims), carried, burn_in)


def record_batches(records: int, size: int, passes: int, rng: np.random.Generator) -> Iterator[NDArray[np.int64]]:
    """Yield which records make each batch, in a new order on each pass."""
    for _ in range(passes):
        order = rng.permutation(records)
        yield from (order[start : start + size] for start in range(0, records - size + 1, size))


def batches_per_epoch(records: int, preset: TrainingPreset) -> int:
    """Return how many batches an epoch has."""
    return preset.passes * max(1, records // min(preset.batch_size, records))


def whole_frames(seconds: float, rate_hz: int, stride: int) -> int:
    """Return a duration in samples, rounded down to whole frames of the model."""
    return max(1, int(seconds * rate_hz) // stride) * stride


def random_crops(
    signals: Float32Array, rows: NDArray[np.int64], samples: int, rng: np.random.Generator
) -> Float32Array:
    """Cut `samples` from each row at a random place."""
    latest = signals.shape[1] - samples
    starts = rng.integers(0, latest + 1, len(rows))
    return np.stack([signals[row, at : at + samples] for row, at in zip(rows, starts, strict=True)])


def augmented(
    crops: Float32Array, preset: TrainingPreset, std_mv: Float64Array, rng: np.random.Generator
) -> Float32Array:
    """Return changed copies of crops (batch, samples, leads): gain, white noise, silent leads.

    std_mv: what one of each lead (leads,) is in millivolts.
    """
    batch, _, leads = crops.shape
    gain = rng.uniform(1 - preset.gain_jitter, 1 + preset.gain_jitter, (batch, 1, 1)).astype(np.float32)
    changed = crops * gain
    if preset.noise_mv > 0:
        scale = (rng.random((batch, 1, 1)) * (preset.noise_mv / std_mv)).astype(np.float32)
        changed += scale * rng.standard_normal(crops.shape, dtype=np.float32)
    if preset.lead_dropout > 0:
        changed *= rng.random((batch, 1, leads)) >= preset.lead_dropout
    return changed


def mixed(
    crops: Float32Array, targets: Float32Array, concentration: float, rng: np.random.Generator
) -> tuple[Float32Array, Float32Array]:
    """Return crops and targets, each mixed with another one of the batch by one share from Beta(c, c); 0 mixes none."""
    if concentration == 0:
        return crops, targets
    share = np.float32(rng.beta(concentration, concentration))
    return share * crops + (1 - share) * crops[::-1], share * targets + (1 - share) * targets[::-1]
