"""Augmentations by name, as presets list them: which there are, what they can be told, and doing them to a batch.

[training]
augment = [
  { name = "heart_rate_warp", chance = 0.5 },
  { name = "channel_noise", settings = { most_mv = 0.05 } },
]
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from typing import Annotated, Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from trainer.augment_axis import axis_turn
from trainer.augment_mix import mixup, segment_cutmix
from trainer.augment_noise import band_pass, channel_noise, motion_and_wander
from trainer.augment_time import heart_rate_warp, temporal_dropout, time_shift

Float32Array = NDArray[np.float32]

MIXES: tuple[Callable[..., Any], ...] = (mixup, segment_cutmix)
"""They need other records, and say how much of each is left."""

CHANGES = (heart_rate_warp, time_shift, temporal_dropout, band_pass, motion_and_wander, channel_noise, axis_turn)

AUGMENTATIONS: dict[str, Callable[..., Any]] = {function.__name__: function for function in (*CHANGES, *MIXES)}
"""Each takes ECG in millivolts (records, samples, leads), the sampling rate, a generator, and settings of its own."""

GIVEN = ("ecg", "rate_hz", "rng")
"""What a function is given anyway; its other parameters are its settings."""


class Augmentation(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One augmentation of a recipe."""

    name: str
    chance: Annotated[float, msgspec.Meta(ge=0.0, le=1.0)] = 1.0
    """How many of the crops it is done to."""
    settings: dict[str, int | float] = {}

    def __post_init__(self) -> None:
        """Raises ValueError, which msgspec reports with the place, for unknown names and settings."""
        if self.name not in AUGMENTATIONS:
            raise ValueError(f"no augmentation {self.name!r}; there are {', '.join(AUGMENTATIONS)}")
        known = [name for name in inspect.signature(AUGMENTATIONS[self.name]).parameters if name not in GIVEN]
        unknown = set(self.settings) - set(known)
        if unknown:
            raise ValueError(f"{self.name} cannot be told {', '.join(sorted(unknown))}, but {', '.join(known)}")


def augment(
    ecg: Float32Array, targets: Float32Array, steps: Sequence[Augmentation], rate_hz: int, rng: np.random.Generator
) -> tuple[Float32Array, Float32Array]:
    """Return changed copies of ECG in millivolts (records, samples, leads) and of its targets (records, outputs).

    One augmentation after another, each to the records that its chance falls on. Targets change where records mix.
    """
    for step in steps:
        chosen = rng.random(len(ecg)) < step.chance
        if not chosen.any():
            continue
        change = AUGMENTATIONS[step.name]
        if change in MIXES:
            mixed = change(ecg, rate_hz, rng, **step.settings)
            kept = mixed.kept[:, None]
            mixed_targets = kept * targets + (1 - kept) * targets[mixed.partners]
            targets = np.where(chosen[:, None], mixed_targets, targets)
            ecg = np.where(chosen[:, None, None], mixed.ecg, ecg)
        else:
            ecg = ecg.copy()
            ecg[chosen] = change(ecg[chosen], rate_hz, rng, **step.settings)
    return ecg, targets
