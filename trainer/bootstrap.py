"""Bootstrap intervals over records, all replicates at once: a replicate is a weight (how often drawn) per record."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from trainer.metrics import BoolArray, FloatArray, is_measurable

MEASURES = ("auc", "auprc", "precision", "recall", "f1")
"""What gets an interval. Calibration error does not: resampling adds to it, so its percentiles miss the value."""

LEVEL = 0.95
BLOCK_WEIGHTS = 4_000_000
"""Weights held at once, which bounds memory to about 100 MB whatever the number of records."""

Interval = tuple[float, float]


@dataclass(frozen=True)
class Intervals:
    """Percentile intervals; null where a figure is null or no replicate could be measured."""

    level: float
    replicates: int
    seed: int
    macro: dict[str, Interval | None]
    per_class: dict[str, dict[str, Interval | None]]


def bootstrap_intervals(
    labels: NDArray[np.float32], probabilities: FloatArray, thresholds: Sequence[float], classes: Sequence[str],
    replicates: int, seed: int,
) -> Intervals:  # fmt: skip
    """Draw records with replacement and return the intervals that hold 95 % of the replicates.

    labels and probabilities are (records, classes). Model and thresholds stay as they are: the intervals speak of
    other records, not of other trainings.
    """
    rng = np.random.default_rng(seed)
    positive, records = labels > 0.5, len(labels)
    block = max(1, BLOCK_WEIGHTS // records)
    sizes = [min(block, replicates - done) for done in range(0, replicates, block)]
    drawn = [_measure(positive, probabilities, thresholds, drawn_counts(records, size, rng)) for size in sizes]
    values = np.concatenate(drawn)  # (replicates, classes, measures)
    measured = [k for k in range(len(classes)) if is_measurable(positive[:, k])]
    macro = mean_of_known(values[:, measured], axis=1)
    return Intervals(
        level=LEVEL,
        replicates=replicates,
        seed=seed,
        macro=_intervals(macro),
        per_class={name: _intervals(values[:, k]) for k, name in enumerate(classes)},
    )


def drawn_counts(records: int, replicates: int, rng: np.random.Generator) -> FloatArray:
    """Return how often each record is drawn, (replicates, records); every row sums to the number of records."""
    chosen = rng.integers(0, records, (replicates, records)) + records * np.arange(replicates)[:, None]
    return np.bincount(chosen.ravel(), minlength=replicates * records).reshape(replicates, records).astype(np.float64)


def weighted_ranking(positive: BoolArray, scores: FloatArray, weights: FloatArray) -> tuple[FloatArray, FloatArray]:
    """Return ROC-AUC and average precision, both (replicates,), of scores (records,) under weights.

    Equal scores count as one threshold, as in scikit-learn. NaN where a replicate has one kind of record only.
    """
    order = np.argsort(-scores, kind="stable")
    edges = np.flatnonzero(np.diff(scores[order], prepend=np.inf))  # first record of each distinct score
    truth, ranked = positive[order], weights[:, order]
    hits = np.add.reduceat(ranked * truth, edges, axis=1)  # (replicates, distinct scores), highest score first
    misses = np.add.reduceat(ranked * ~truth, edges, axis=1)
    hits_so_far, misses_so_far = hits.cumsum(axis=1), misses.cumsum(axis=1)
    n_hits, n_misses = hits_so_far[:, -1], misses_so_far[:, -1]
    pairs_lost = (hits * (misses_so_far - misses / 2)).sum(axis=1)
    precision = _ratio(hits_so_far, hits_so_far + misses_so_far, empty=0.0)
    auc = 1.0 - _ratio(pairs_lost, n_hits * n_misses, empty=np.nan)
    auprc = _ratio((hits * precision).sum(axis=1), np.where(n_misses > 0, n_hits, 0.0), empty=np.nan)
    return auc, auprc


def weighted_calls(
    positive: BoolArray, called: BoolArray, weights: FloatArray
) -> tuple[FloatArray, FloatArray, FloatArray]:
    """Return precision, recall and F1, each (replicates,), of calls (records,) under weights."""
    right, calls, positives = (weights @ mask.astype(np.float64) for mask in (positive & called, called, positive))
    return (
        _ratio(right, calls, empty=0.0),
        _ratio(right, positives, empty=np.nan),
        _ratio(2 * right, calls + positives, empty=np.nan),
    )


def _measure(
    positive: BoolArray, probabilities: FloatArray, thresholds: Sequence[float], weights: FloatArray
) -> FloatArray:
    """Return every measure of every class under every row of weights: (replicates, classes, measures)."""
    values = np.full((len(weights), positive.shape[1], len(MEASURES)), np.nan)
    for k in range(positive.shape[1]):
        if is_measurable(positive[:, k]):
            ranking = weighted_ranking(positive[:, k], probabilities[:, k], weights)
            calls = weighted_calls(positive[:, k], probabilities[:, k] >= thresholds[k], weights)
            values[:, k] = np.stack([*ranking, *calls], axis=1)
    return values


def _intervals(values: FloatArray) -> dict[str, Interval | None]:
    """Return the interval of each measure of values (replicates, measures); replicates without a value are left out."""
    return {name: _interval(values[~np.isnan(values[:, i]), i]) for i, name in enumerate(MEASURES)}


def _interval(values: FloatArray) -> Interval | None:
    if not len(values):
        return None
    low, high = np.quantile(values, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return float(low), float(high)


def mean_of_known(values: FloatArray, axis: int) -> FloatArray:
    """Return the mean of what is not NaN; NaN where there is nothing else.

    A rare class has no positives in some replicates, and counts in the others.
    """
    known = ~np.isnan(values)
    return _ratio(np.where(known, values, 0.0).sum(axis), known.sum(axis), empty=np.nan)


def _ratio(part: FloatArray, whole: FloatArray, empty: float) -> FloatArray:
    ratio = np.full(np.shape(part), empty, dtype=np.float64)
    np.divide(part, whole, out=ratio, where=whole > 0)
    return ratio
