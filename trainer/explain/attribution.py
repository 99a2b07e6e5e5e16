"""Which leads and moments a score rests on, by three methods of captum.

- gradient: how much the logit would move for every millivolt at a sample, either way (Simonyan et al. 2013,
  arXiv:1312.6034).
- integrated gradients: each sample's share of the difference between this ECG's logit and that of a flat line; the
  shares add up to it (Sundararajan et al. 2017, arXiv:1703.01365).
- occlusion: by how much the logit falls when a lead, or a fifth of a second of it, is put flat (Zeiler & Fergus 2014,
  arXiv:1311.2901).

All three look at the calibrated logit, whose sigmoid is the published probability, with the state that a streaming
model had before the window held fixed.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from captum.attr import FeatureAblation, IntegratedGradients, Saliency
from numpy.typing import NDArray
from torch import Tensor

from trainer.explain.window import SeenWindow

FloatArray = NDArray[np.float64]

STEPS = 128
"""Points of the Gauss-Legendre rule along the path of integrated gradients."""
BATCH = 16
"""Windows that go through the model at once."""
OCCLUDED_S = 0.2
"""A wave or a complex at a time; a tenth of a second tears a QRS apart."""
BIN_S = 0.1


@dataclass(frozen=True)
class Attribution:
    """What one method says of one class."""

    method: str
    unit: str
    signed: bool
    """Whether a value below zero speaks against the class; otherwise values are sizes."""
    samples: FloatArray
    """(samples, leads), at the model's rate."""
    leads: FloatArray
    """(leads,) of each lead as a whole."""
    complete: Completeness | None = None

    def bins(self, rate_hz: int) -> FloatArray:
        """Add up the samples by tenths of a second: (bins, leads)."""
        return binned(self.samples, rate_hz)


@dataclass(frozen=True)
class Completeness:
    """Integrated gradients' own test: the sum of all shares beside what it must be."""

    total: float
    difference: float
    """Of the logits of this ECG and of a flat line."""


def attribute(window: SeenWindow, class_name: str, method: str) -> Attribution:
    """Explain the logit of a class by one of METHODS."""
    return METHODS[method](window, window.subject.classes.index(class_name))


def binned(samples: FloatArray, rate_hz: int) -> FloatArray:
    """Add up (samples, leads) by tenths of a second: (bins, leads); the last bin may hold less than a tenth."""
    number = (np.arange(len(samples)) / (rate_hz * BIN_S) + 1e-9).astype(np.int64)
    bins = np.zeros((number[-1] + 1, samples.shape[1]))
    np.add.at(bins, number, samples)
    return bins


def _gradient(window: SeenWindow, target: int) -> Attribution:
    slopes = Saliency(window.evidence_of).attribute(window.x.clone().requires_grad_(), target=target, abs=True)
    samples = _array(slopes) / np.asarray(window.subject.signal.std_mv)
    return Attribution("gradient", "logit per mV", False, samples, samples.sum(0))


def _integrated_gradients(window: SeenWindow, target: int) -> Attribution:
    flat = window.flat()
    shares = IntegratedGradients(window.evidence_of).attribute(
        window.x.clone(), baselines=flat, target=target, n_steps=STEPS, internal_batch_size=BATCH
    )
    samples = _array(shares)
    with torch.inference_mode():
        ends = window.evidence_of(torch.cat([window.x, flat]))[:, target]
    complete = Completeness(float(samples.sum()), float(ends[0] - ends[1]))
    return Attribution("integrated gradients", "logit", True, samples, samples.sum(0), complete)


def _occlusion(window: SeenWindow, target: int) -> Attribution:
    _, count, leads = window.x.shape
    by_lead = torch.arange(leads).expand_as(window.x)
    piece = torch.arange(count) // max(1, round(OCCLUDED_S * window.subject.signal.rate_hz))
    by_piece = by_lead + leads * piece[None, :, None]
    pieces = _ablated(window, target, by_piece)
    spread = pieces / torch.bincount(piece)[piece].numpy()[:, None]
    return Attribution("occlusion", "logit", True, spread, _ablated(window, target, by_lead)[0])


def _ablated(window: SeenWindow, target: int, mask: Tensor) -> FloatArray:
    """Return by how much the logit falls when the samples of one number in the mask are put flat, at each of them."""
    return _array(
        FeatureAblation(window.evidence_of).attribute(
            window.x, baselines=window.flat(), target=target, feature_mask=mask, perturbations_per_eval=BATCH
        )
    )


def _array(attributed: Tensor) -> FloatArray:
    found: FloatArray = attributed[0].detach().numpy().astype(np.float64)
    return found


METHODS: dict[str, Callable[[SeenWindow, int], Attribution]] = {
    "integrated-gradients": _integrated_gradients,
    "gradient": _gradient,
    "occlusion": _occlusion,
}
"""Name on the command line → method; the first is the default."""
