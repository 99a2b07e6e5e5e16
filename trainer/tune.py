"""Calibration and F1 thresholds, fitted on records the model was not trained on."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import msgspec
import numpy as np
from numpy.typing import NDArray

from edge.alerts.policy import SILENT_CLASSES
from edge.runtime.base import calibrated
from edge.runtime.manifest import Calibration, Manifest, OperatingPoint
from trainer.calibration import fit_calibration, identity
from trainer.metrics import Figures, FloatArray, confusion, figures, is_measurable
from trainer.streams.plan import HALVES, patient_halves
from trainer.streams.search import DIGITS, off_below

SPLITS = 10
"""Random halvings behind cross-fitted figures: one alone depends on which patients fell where."""


@dataclass(frozen=True)
class Tuning:
    """What tuning found, by class; `notes` names what could not be tuned."""

    calibration: Calibration
    f1_thresholds: dict[str, float]
    notes: list[str]


@dataclass(frozen=True)
class CrossFit:
    """Figures with calibration and thresholds fitted on one half of the patients and measured on the other, both ways.

    Means over several random halvings; null where a class cannot be measured.
    """

    splits: int
    macro_auc: float | None
    macro_f1: float | None
    macro_auprc: float | None
    ece: float | None
    f1_per_class: dict[str, float | None]


def tune(manifest: Manifest, logits: NDArray[np.float32], labels: NDArray[np.float32], together: bool = True) -> Tuning:
    """Fit calibration and the thresholds with the highest F1 to logits and labels, both (records, classes).

    Classes are calibrated in the light of each other, or not `together`, which leaves every ranking as it is. A class
    without positives or without negatives keeps what the manifest has, and is noted.
    """
    calibration = fit_calibration(manifest.calibration, logits, labels, together)
    probabilities = calibrated(calibration, logits)
    thresholds: dict[str, float] = {}
    notes = []
    for k, name in enumerate(manifest.classes):
        thresholds[name] = manifest.operating_points[name].f1_threshold
        if is_measurable(labels[:, k] > 0.5):
            thresholds[name] = round(f1_threshold(probabilities[:, k]), DIGITS)
        else:
            notes.append(f"{name} keeps its calibration and thresholds: these records do not tell it from others")
    return Tuning(calibration, thresholds, notes)


def cross_fit(
    manifest: Manifest, logits: NDArray[np.float32], labels: NDArray[np.float32], patients: NDArray[np.int64], seed: int
) -> CrossFit:
    """Measure what tuning on half of the patients gives for the other half; logits and labels are (records, classes).

    The two halves' probabilities and calls are measured together, so that every record counts once; records are ranked
    within a half, because each half is calibrated in its own way. Nothing that the manifest has been tuned to counts: a
    class that one half does not know is called by its plain probability there.
    """
    manifest = _untuned(manifest)
    rng = np.random.default_rng(seed)
    splits = [_fitted_apart(manifest, logits, labels, patients, rng) for _ in range(SPLITS)]
    return CrossFit(
        splits=SPLITS,
        macro_auc=_mean([ranked.macro_auc for split in splits for ranked in split.halves]),
        macro_f1=_mean([_mean(list(split.f1.values())) for split in splits]),
        macro_auprc=_mean([ranked.macro_auprc for split in splits for ranked in split.halves]),
        ece=_mean([split.together.ece for split in splits]),
        f1_per_class={name: _mean([split.f1[name] for split in splits]) for name in manifest.classes},
    )


@dataclass(frozen=True)
class _Split:
    """The figures of probabilities that the other half of the patients calibrated, and F1 of calls so made."""

    together: Figures
    halves: list[Figures]
    f1: dict[str, float | None]


def _fitted_apart(
    manifest: Manifest, logits: NDArray[np.float32], labels: NDArray[np.float32], patients: NDArray[np.int64],
    rng: np.random.Generator,
) -> _Split:  # fmt: skip
    """Measure one halving of the patients, both ways."""
    half = patient_halves(patients, labels.argmax(axis=1), rng)
    probabilities, called = np.empty(logits.shape), np.empty(logits.shape, dtype=bool)
    for h in HALVES:
        fitted = tune(manifest, logits[half != h], labels[half != h])
        cuts = np.array([fitted.f1_thresholds[name] for name in manifest.classes])
        probabilities[half == h] = calibrated(fitted.calibration, logits[half == h])
        called[half == h] = probabilities[half == h] >= cuts
    chosen = [slice(None), *(half == h for h in HALVES)]
    together, *halves = (
        figures(labels[rows], probabilities[rows], [0.5] * len(manifest.classes), manifest.classes) for rows in chosen
    )
    f1 = {
        name: confusion(labels[:, k] > 0.5, called[:, k]).f1 if of_class.auc is not None else None
        for k, (name, of_class) in enumerate(together.per_class.items())
    }
    return _Split(together, halves, f1)


def _untuned(manifest: Manifest) -> Manifest:
    """Return the manifest as if nothing had been tuned: what it has may be fitted to the very records measured."""
    points = {
        name: msgspec.structs.replace(point, f1_threshold=0.5) for name, point in manifest.operating_points.items()
    }
    plain = identity(len(manifest.classes), manifest.calibration.softmax)
    return msgspec.structs.replace(manifest, calibration=plain, operating_points=points)


def _mean(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return float(np.mean(known)) if known else None


def with_f1_thresholds(manifest: Manifest, tuning: Tuning) -> Manifest:
    """Return the manifest with new calibration and F1 thresholds; a class that raises no alert takes the same for `on`.

    What other classes alert at is `trainer.streams.tune`'s to choose.
    """
    points = {}
    for name, point in manifest.operating_points.items():
        cut = tuning.f1_thresholds[name]
        points[name] = msgspec.structs.replace(point, f1_threshold=cut)
        if name in SILENT_CLASSES:
            points[name] = OperatingPoint(cut, cut, float(off_below(np.array(cut))), point.dwell_s)
    return msgspec.structs.replace(manifest, calibration=tuning.calibration, operating_points=points)


def f1_threshold(probabilities: FloatArray) -> float:
    """Return the threshold whose calls have the highest F1 by what calibrated probabilities (records,) themselves say.

    Lipton et al. 2014, arXiv:1402.1892. The labels have had their say in the calibration; the threshold that is best
    for the labels of some thousand records hangs on a few of them, and does worse on others. It lies midway between the
    lowest probability called and the highest one not called; of equals it is the highest.
    """
    cuts, records = np.unique(probabilities, return_counts=True)  # rising
    called = records[::-1].cumsum()[::-1]  # by each cut, as many as reach it
    true_calls = (cuts * records)[::-1].cumsum()[::-1]
    f1 = 2 * true_calls / (called + true_calls[0])
    best = len(cuts) - 1 - int(np.argmax(f1[::-1]))
    return float((cuts[best] + (cuts[best - 1] if best else 0.0)) / 2)
