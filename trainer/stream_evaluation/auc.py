"""ROC-AUC of several ways to score the same records, with intervals, also of how far they lie from the first."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from sklearn.metrics import roc_auc_score

from trainer.bootstrap import LEVEL, Interval, drawn_counts, mean_of_known, weighted_ranking
from trainer.metrics import is_measurable

FloatArray = NDArray[np.float64]
Float32Array = NDArray[np.float32]
Scores = Float32Array | FloatArray

SEED = 0


@dataclass(frozen=True)
class Auc:
    """How well scores rank records; null where the records have only positives or only negatives of a class."""

    records: int
    macro: float | None
    interval: Interval | None
    per_class: dict[str, float | None]
    difference: float | None = None
    """Macro-AUC less that of the first way, on the same records."""
    difference_interval: Interval | None = None
    """Of the same replicates, so that what all ways share does not widen it."""


def compare(labels: Float32Array, ways: Sequence[Scores], classes: Sequence[str], replicates: int) -> list[Auc]:
    """Measure scores, each (records, classes), against labels of that shape; the first is what others differ from.

    Intervals hold 95 % of the bootstrap replicates over records; 0 replicates give none.
    """
    rows = [_measure(labels, scores, classes) for scores in ways]
    drawn = drawn_counts(len(labels), replicates, np.random.default_rng(SEED)) if replicates else None
    base: FloatArray | None = None
    results = []
    for scores, (macro, per_class) in zip(ways, rows, strict=True):
        replicated = None if drawn is None or macro is None else _replicated(labels, scores, drawn)
        base = replicated if base is None else base
        first = rows[0][0]
        results.append(
            Auc(
                records=len(labels),
                macro=macro,
                interval=_interval(replicated),
                per_class=per_class,
                difference=None if macro is None or first is None else macro - first,
                difference_interval=None if replicated is None or base is None else _interval(replicated - base),
            )
        )
    return results


def _measure(
    labels: Float32Array, scores: Scores, classes: Sequence[str]
) -> tuple[float | None, dict[str, float | None]]:
    positive = labels > 0.5
    per_class = {
        name: float(roc_auc_score(positive[:, k], scores[:, k])) if is_measurable(positive[:, k]) else None
        for k, name in enumerate(classes)
    }
    known = [auc for auc in per_class.values() if auc is not None]
    return (float(np.mean(known)) if known else None), per_class


def _replicated(labels: Float32Array, scores: Scores, drawn: FloatArray) -> FloatArray:
    """Return the macro-AUC of every replicate, (replicates,), of the classes with both kinds of records there."""
    positive = labels > 0.5
    measured = [k for k in range(labels.shape[1]) if is_measurable(positive[:, k])]
    each = [weighted_ranking(positive[:, k], scores[:, k].astype(np.float64), drawn)[0] for k in measured]
    return mean_of_known(np.stack(each), axis=0)


def _interval(values: FloatArray | None) -> Interval | None:
    known = np.array([]) if values is None else values[~np.isnan(values)]
    if not len(known):
        return None
    low, high = np.quantile(known, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return float(low), float(high)
