"""Figures of a multi-label classifier: ranking, calls at thresholds, calibration; per class and as macro means."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from sklearn.metrics import average_precision_score, roc_auc_score

FloatArray = NDArray[np.float64]
BoolArray = NDArray[np.bool_]

ECE_BINS = 15


@dataclass(frozen=True)
class Confusion:
    """Counts of records by what was called and what is true."""

    true_positives: int
    false_positives: int
    false_negatives: int
    true_negatives: int

    @property
    def precision(self) -> float:
        """Share of the calls that are right; 0 when nothing is called."""
        return _share(self.true_positives, self.true_positives + self.false_positives)

    @property
    def recall(self) -> float:
        """Share of the positives that are called."""
        return _share(self.true_positives, self.true_positives + self.false_negatives)

    @property
    def f1(self) -> float:
        """Harmonic mean of precision and recall."""
        return _share(2 * self.true_positives, 2 * self.true_positives + self.false_positives + self.false_negatives)


@dataclass(frozen=True)
class ClassFigures:
    """One class's figures; null where the records have only positives or only negatives of it."""

    positives: int
    threshold: float
    auc: float | None
    auprc: float | None
    precision: float | None
    recall: float | None
    f1: float | None
    ece: float | None
    confusion: Confusion


@dataclass(frozen=True)
class Figures:
    """All classes' figures and their unweighted means over the classes that could be measured."""

    n_records: int
    macro_auc: float | None
    macro_auprc: float | None
    macro_precision: float | None
    macro_recall: float | None
    macro_f1: float | None
    ece: float | None
    per_class: dict[str, ClassFigures]
    notes: list[str]


@dataclass(frozen=True)
class Reliability:
    """Records binned by predicted probability; bins without records are left out."""

    predicted: FloatArray  # (bins,) mean probability
    observed: FloatArray  # (bins,) share of positives
    counts: NDArray[np.int64]  # (bins,)


def figures(
    labels: NDArray[np.float32], probabilities: FloatArray, thresholds: Sequence[float], classes: Sequence[str]
) -> Figures:
    """Measure probabilities (records, classes) against labels of the same shape; a class is called at its threshold.

    Classes that are absent from the records, or in all of them, have null figures, stay out of the macro means and
    are named in `notes`.
    """
    per_class = {
        name: class_figures(labels[:, k] > 0.5, probabilities[:, k], thresholds[k]) for k, name in enumerate(classes)
    }
    measured = [of_class for of_class in per_class.values() if of_class.auc is not None]
    unmeasured = [name for name, of_class in per_class.items() if of_class.auc is None]
    notes = [f"{name}: {_why_unmeasured(per_class[name])}; left out of the macro figures" for name in unmeasured]
    return Figures(
        n_records=len(labels),
        macro_auc=_mean([of_class.auc for of_class in measured]),
        macro_auprc=_mean([of_class.auprc for of_class in measured]),
        macro_precision=_mean([of_class.precision for of_class in measured]),
        macro_recall=_mean([of_class.recall for of_class in measured]),
        macro_f1=_mean([of_class.f1 for of_class in measured]),
        ece=_mean([of_class.ece for of_class in measured]),
        per_class=per_class,
        notes=notes,
    )


def class_figures(positive: BoolArray, probabilities: FloatArray, threshold: float) -> ClassFigures:
    """Measure one class: positive and probabilities (records,)."""
    counts = confusion(positive, probabilities >= threshold)
    positives = int(positive.sum())
    if not is_measurable(positive):
        return ClassFigures(positives, threshold, None, None, None, None, None, None, counts)
    return ClassFigures(
        positives=positives,
        threshold=threshold,
        auc=float(roc_auc_score(positive, probabilities)),
        auprc=float(average_precision_score(positive, probabilities)),
        precision=counts.precision,
        recall=counts.recall,
        f1=counts.f1,
        ece=expected_calibration_error(positive, probabilities),
        confusion=counts,
    )


def is_measurable(positive: BoolArray) -> bool:
    """Whether there are both positives and negatives, without which nothing can be ranked."""
    return bool(positive.any() and not positive.all())


def confusion(positive: BoolArray, called: BoolArray) -> Confusion:
    """Count records (records,) by truth and call."""
    return Confusion(
        true_positives=int((positive & called).sum()),
        false_positives=int((~positive & called).sum()),
        false_negatives=int((positive & ~called).sum()),
        true_negatives=int((~positive & ~called).sum()),
    )


def reliability(positive: BoolArray, probabilities: FloatArray, bins: int = ECE_BINS) -> Reliability:
    """Bin records (records,) by probability into bins of equal width."""
    bin_of = np.minimum((probabilities * bins).astype(np.int64), bins - 1)
    counts = np.bincount(bin_of, minlength=bins)
    filled = counts > 0
    predicted = np.bincount(bin_of, weights=probabilities, minlength=bins)[filled] / counts[filled]
    observed = np.bincount(bin_of, weights=positive.astype(np.float64), minlength=bins)[filled] / counts[filled]
    return Reliability(predicted, observed, counts[filled])


def expected_calibration_error(positive: BoolArray, probabilities: FloatArray, bins: int = ECE_BINS) -> float:
    """Mean distance of predicted probability and observed share over bins, weighted by records (Guo et al. 2017)."""
    binned = reliability(positive, probabilities, bins)
    return float(np.average(np.abs(binned.predicted - binned.observed), weights=binned.counts))


def _why_unmeasured(of_class: ClassFigures) -> str:
    return "no record has it" if of_class.positives == 0 else "every record has it"


def _mean(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return float(np.mean(known)) if known else None


def _share(part: int, whole: int) -> float:
    return part / whole if whole else 0.0
