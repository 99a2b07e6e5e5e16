"""The model that is to be explained, as one thing: a bundle or a checkpoint, streaming or windowed."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from edge.errors import BundleError
from edge.runtime.base import calibrated
from edge.runtime.bundle import Bundle
from edge.runtime.manifest import Calibration, SignalSpec
from trainer.calibration import identity, weights_of
from trainer.checkpoint import Checkpoint, model_from_bundle
from trainer.model import EcgMamba
from trainer.networks.windowed import Sliding, Windowed
from trainer.ptbxl import RATE_HZ, RECORD_SAMPLES

HOP_S = 1.0
"""Between two looks of a windowed network that has no manifest yet to say otherwise."""


@dataclass(frozen=True)
class Subject:
    """A model along a stream, and the front-end before it."""

    name: str
    model: EcgMamba | Sliding
    classes: list[str]
    leads: list[str]
    signal: SignalSpec
    hop_samples: int
    window_samples: int
    calibration: Calibration
    thresholds: dict[str, float]
    """Where a class is called; empty before `ecg-trainer tune` has seen the model."""
    model_hash: str | None = None
    """What alerts name the model by; a checkpoint has none."""

    def calibrated_logits(self, logits: Tensor) -> Tensor:
        """Return logits (..., classes) as calibrated: their sigmoid is the published probability."""
        weights = torch.from_numpy(weights_of(self.calibration)).float()
        return logits @ weights.T + torch.tensor(self.calibration.bias)

    def probabilities(self, logits: NDArray[np.float32]) -> dict[str, float]:
        """Return class → calibrated probability of logits (classes,)."""
        return dict(zip(self.classes, calibrated(self.calibration, logits).tolist(), strict=True))


def subject_of_bundle(bundle: Bundle) -> Subject:
    """Return a bundle's model; raises BundleError when it is none of the trainer's."""
    manifest, model = bundle.manifest, model_from_bundle(bundle)
    if isinstance(model, Windowed):
        along: EcgMamba | Sliding = Sliding(model, manifest.window_samples, len(manifest.leads)).eval()
    else:
        along = model
    return Subject(
        name=f"{manifest.name} {manifest.version}",
        model=along,
        classes=manifest.classes,
        leads=manifest.leads,
        signal=manifest.signal,
        hop_samples=manifest.hop_samples,
        window_samples=manifest.window_samples,
        calibration=manifest.calibration,
        thresholds={name: point.f1_threshold for name, point in manifest.operating_points.items()},
        model_hash=manifest.model_hash,
    )


def subject_of_checkpoint(checkpoint: Checkpoint) -> Subject:
    """Return a checkpoint's model, uncalibrated; raises BundleError for one that cannot follow a stream."""
    facts = checkpoint.facts
    if facts.preset.get("signal", {}).get("filter") == "zero_phase":
        raise BundleError(checkpoint.path, "a zero-phase filter looks into the future: no stream can be explained")
    if isinstance(checkpoint.model, EcgMamba):
        config = checkpoint.model.config
        along: EcgMamba | Sliding = checkpoint.model
        hop_samples, window_samples = config.hop_samples, config.window_samples
    else:
        hop_samples = round(HOP_S * facts.signal.rate_hz)
        window_samples = round(RECORD_SAMPLES / RATE_HZ * facts.signal.rate_hz)
        along = Sliding(checkpoint.windowed_model(), window_samples, len(facts.leads)).eval()
    return Subject(
        name=str(facts.preset.get("name") or facts.kind),
        model=along,
        classes=facts.classes,
        leads=facts.leads,
        signal=facts.signal,
        hop_samples=hop_samples,
        window_samples=window_samples,
        calibration=identity(len(facts.classes)),
        thresholds={},
    )
