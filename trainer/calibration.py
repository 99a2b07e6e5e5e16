"""Calibration: what a network's outputs say of records it was not trained on, all classes in the light of each other.

A network's classes lean on each other: one that sees much wrong with an ECG says hypertrophy too readily, whatever the
voltages. On records it was trained on it has learnt the exceptions by heart, so only others show it.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import minimize
from scipy.special import expit

from edge.runtime.base import logits_of
from edge.runtime.manifest import Calibration
from trainer.metrics import BoolArray, FloatArray, is_measurable

SCALE_RANGE = (0.05, 20.0)
"""Kept positive: calibration must not turn a class upside down. Kept finite: it must stay a probability."""
RECORDS_PER_CLASS = 100
"""Fewer records for each class than this do not tell how classes lean on each other; each is then fitted by itself."""
RIDGE = 0.03
"""What the squares of other classes' weights cost, in nats a record: a weight that tells little stays near 0."""
DIGITS = 6


def identity(classes: int, softmax: bool = False) -> Calibration:
    """Return the calibration that changes nothing; softmax: of a model that knows one label a record."""
    return Calibration(scale=[1.0] * classes, bias=[0.0] * classes, softmax=softmax)


def weights_of(calibration: Calibration) -> FloatArray:
    """Return how much each output counts in each class's logit, (classes, outputs)."""
    own = np.diag(calibration.scale)
    return own + np.array(calibration.others) if calibration.others else own


def fit_calibration(
    before: Calibration, outputs: NDArray[np.float32], labels: NDArray[np.float32], together: bool = True
) -> Calibration:
    """Fit outputs to labels, both (records, classes): Platt 1999 per class, with the other classes' logits beside it.

    That is the matrix scaling of Guo et al. 2017, arXiv:1706.04599, for classes that do not exclude each other. Not
    `together`, or with too few records for it, each class is fitted by itself, which leaves its ranking as it is. A
    class without positives or without negatives keeps what it had, and lends nothing to others.
    """
    logits = logits_of(before, outputs)
    records, classes = labels.shape
    measured = [is_measurable(labels[:, k] > 0.5) for k in range(classes)]
    together = together and records >= RECORDS_PER_CLASS * classes
    scale, bias = list(before.scale), list(before.bias)
    others = [list(weights) for weights in before.others] or [[0.0] * classes for _ in range(classes)]
    for k in np.flatnonzero(measured).tolist():
        beside = [j for j, known in enumerate(measured) if together and known and j != k]
        scale[k], bias[k], weights = fit_class(logits[:, k], labels[:, k] > 0.5, logits[:, beside])
        lent = dict(zip(beside, weights, strict=True))
        others[k] = [lent.get(j, 0.0) for j in range(classes)]
    return Calibration(scale, bias, others if np.any(others) else [], before.softmax)


def fit_class(
    logits: FloatArray, positive: BoolArray, others: FloatArray | None = None
) -> tuple[float, float, list[float]]:
    """Return (scale, bias, weights): sigmoid(scale · logit + weights · others + bias) fits the truth best.

    `logits` and `positive` are (records,), `others` is (records, n). Maximum likelihood with the smoothed targets of
    Platt 1999, so that separable records do not give infinite scales.
    """
    others = np.empty((len(logits), 0)) if others is None else others
    n_positive, n_negative = int(positive.sum()), int((~positive).sum())
    target = np.where(positive, (n_positive + 1) / (n_positive + 2), 1 / (n_negative + 2))
    inputs = np.column_stack([logits, np.ones(len(logits)), others])

    def loss_and_gradient(parameters: FloatArray) -> tuple[float, FloatArray]:
        z = inputs @ parameters
        weights = np.concatenate([[0.0, 0.0], parameters[2:]])
        loss = float((np.logaddexp(0.0, z) - target * z).mean() + RIDGE * (weights**2).sum())
        return loss, inputs.T @ (expit(z) - target) / len(z) + 2 * RIDGE * weights

    start = np.zeros(inputs.shape[1])
    start[0] = 1.0
    free: Sequence[tuple[float | None, float | None]] = [(None, None)] * (len(start) - 1)
    fitted = minimize(loss_and_gradient, start, jac=True, method="L-BFGS-B", bounds=[SCALE_RANGE, *free],
                      options={"ftol": 1e-14, "gtol": 1e-9})  # fmt: skip
    scale, bias, *weights = (round(float(x), DIGITS) for x in fitted.x)
    return scale, bias, weights
