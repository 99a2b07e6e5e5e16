"""Calibration and thresholds, fitted on records the model was not trained on."""

from __future__ import annotations

from dataclasses import dataclass

import msgspec
import numpy as np
from numpy.typing import NDArray
from scipy.optimize import minimize
from scipy.special import expit, logit
from sklearn.metrics import precision_recall_curve

from edge.runtime.base import calibrated
from edge.runtime.manifest import Calibration, Manifest, OperatingPoint
from trainer.metrics import BoolArray, FloatArray, is_measurable

ALERT_PRECISION = 0.7
"""An alert should be right at least this often on the tuning records."""

ALERT_RECALL = 0.2
"""And find at least this share of the positives: a few lucky records at the very top prove no precision."""

HYSTERESIS_LOGITS = 0.5
"""How far below `on` the `off` threshold lies: 0.50 → 0.38, 0.80 → 0.71."""

DWELL_S = 3.0
"""How long a class stays above `on` before it alerts."""

SCALE_RANGE = (0.05, 20.0)
"""Kept positive: calibration must not turn a class upside down. Kept finite: it must stay a probability."""

DIGITS = 6


@dataclass(frozen=True)
class Tuning:
    """What tuning found, by class; `notes` names what could not be tuned as it should."""

    calibration: Calibration
    operating_points: dict[str, OperatingPoint]
    notes: list[str]


def tune(manifest: Manifest, logits: NDArray[np.float32], labels: NDArray[np.float32]) -> Tuning:
    """Fit calibration and operating points to logits and labels, both (records, classes).

    A class without positives or without negatives keeps what the manifest has, and is noted.
    """
    measured = [is_measurable(labels[:, k] > 0.5) for k in range(len(manifest.classes))]
    calibration = _calibration(manifest.calibration, logits, labels, measured)
    probabilities = calibrated(calibration, logits)
    points: dict[str, OperatingPoint] = {}
    notes = []
    for k, name in enumerate(manifest.classes):
        if not measured[k]:
            points[name] = manifest.operating_points[name]
            notes.append(f"{name} keeps its calibration and thresholds: these records do not tell it from others")
            continue
        points[name], reached = operating_point(labels[:, k] > 0.5, probabilities[:, k])
        if not reached:
            notes.append(f"{name} does not reach {ALERT_PRECISION} precision: it alerts at its F1 threshold")
    return Tuning(calibration, points, notes)


def tuned_manifest(manifest: Manifest, tuning: Tuning, metrics: dict[str, object]) -> Manifest:
    """Return the manifest with new calibration, operating points and metrics; everything else stays."""
    return msgspec.structs.replace(
        manifest, calibration=tuning.calibration, operating_points=tuning.operating_points, metrics=metrics
    )


def fit_platt(logits: FloatArray, positive: BoolArray) -> tuple[float, float]:
    """Return (scale, bias) for which sigmoid(scale · logit + bias) fits the truth best; both inputs are (records,).

    Maximum likelihood with the smoothed targets of Platt 1999, so that separable records do not give infinite scales.
    """
    n_positive, n_negative = int(positive.sum()), int((~positive).sum())
    target = np.where(positive, (n_positive + 1) / (n_positive + 2), 1 / (n_negative + 2))

    def loss_and_gradient(parameters: FloatArray) -> tuple[float, FloatArray]:
        z = parameters[0] * logits + parameters[1]
        loss = np.logaddexp(0.0, z) - target * z
        slope = expit(z) - target
        return float(loss.mean()), np.array([(slope * logits).mean(), slope.mean()])

    start = np.array([1.0, 0.0])
    fitted = minimize(loss_and_gradient, start, jac=True, method="L-BFGS-B", bounds=[SCALE_RANGE, (None, None)],
                      options={"ftol": 1e-14, "gtol": 1e-9})  # fmt: skip
    return round(float(fitted.x[0]), DIGITS), round(float(fitted.x[1]), DIGITS)


def operating_point(positive: BoolArray, probabilities: FloatArray) -> tuple[OperatingPoint, bool]:
    """Choose one class's thresholds on calibrated probabilities (records,).

    `f1_threshold` has the highest F1. `on` is that, or the lowest threshold whose precision reaches ALERT_PRECISION
    if that is higher: what interrupts people must be right more often than what stands in a report. `off` lies
    HYSTERESIS_LOGITS below. Also returns whether ALERT_PRECISION is reached, with ALERT_RECALL or more.
    """
    at_f1 = f1_threshold(positive, probabilities)
    at_precision = precision_threshold(positive, probabilities, ALERT_PRECISION, ALERT_RECALL)
    on = at_f1 if at_precision is None else max(at_f1, at_precision)
    off = float(expit(logit(on) - HYSTERESIS_LOGITS))
    point = OperatingPoint(
        f1_threshold=round(at_f1, DIGITS), on=round(on, DIGITS), off=round(off, DIGITS), dwell_s=DWELL_S
    )
    return point, at_precision is not None


def f1_threshold(positive: BoolArray, probabilities: FloatArray) -> float:
    """Return the threshold with the highest F1; of equals the highest."""
    precision, recall, cuts = _curve(positive, probabilities)
    total = precision + recall
    f1 = np.divide(2 * precision * recall, total, out=np.zeros_like(total), where=total > 0)
    return float(cuts[len(f1) - 1 - int(np.argmax(f1[::-1]))])


def precision_threshold(
    positive: BoolArray, probabilities: FloatArray, least_precision: float, least_recall: float
) -> float | None:
    """Return the lowest threshold whose calls reach this precision and recall, or None when there is none."""
    precision, recall, cuts = _curve(positive, probabilities)
    reached = np.flatnonzero((precision >= least_precision) & (recall >= least_recall))
    return float(cuts[reached[0]]) if len(reached) else None


def _curve(positive: BoolArray, probabilities: FloatArray) -> tuple[FloatArray, FloatArray, FloatArray]:
    """Return precision, recall and cut for every distinct probability, rising.

    A cut lies midway between the lowest probability called and the highest one not called, so that it does not hang
    on one record's last digit.
    """
    precision, recall, called_from = precision_recall_curve(positive, probabilities)
    below = np.concatenate([[0.0], called_from[:-1]])
    return precision[:-1], recall[:-1], (below + called_from) / 2


def _calibration(
    before: Calibration, logits: NDArray[np.float32], labels: NDArray[np.float32], measured: list[bool]
) -> Calibration:
    fitted = [
        fit_platt(logits[:, k].astype(np.float64), labels[:, k] > 0.5) if known else (before.scale[k], before.bias[k])
        for k, known in enumerate(measured)
    ]
    return Calibration(scale=[scale for scale, _ in fitted], bias=[bias for _, bias in fitted])
