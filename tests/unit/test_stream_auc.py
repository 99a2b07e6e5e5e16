"""AUC of several ways to score the same records: scikit-learn's value, and intervals of what is compared."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from trainer.stream_evaluation.auc import compare

CLASSES = ["NORM", "MI"]


def scored(records=300, seed=0):
    rng = np.random.default_rng(seed)
    labels = (rng.random((records, 2)) < 0.4).astype(np.float32)
    return labels, (labels + rng.normal(0, 1.0, labels.shape)).astype(np.float32)


def test_auc_is_the_mean_of_scikit_learns_over_classes():
    labels, scores = scored()
    (auc,) = compare(labels, [scores], CLASSES, 0)
    expected = [roc_auc_score(labels[:, k], scores[:, k]) for k in range(2)]
    assert list(auc.per_class.values()) == pytest.approx(expected)
    assert auc.macro == pytest.approx(np.mean(expected))
    assert (auc.interval, auc.difference, auc.difference_interval) == (None, 0.0, None)


def test_a_difference_is_known_better_than_the_auc_itself():
    labels, scores = scored()
    nearly = scores + np.random.default_rng(1).normal(0, 0.05, scores.shape).astype(np.float32)
    _, auc = compare(labels, [scores, nearly], CLASSES, 200)
    assert auc.interval[0] < auc.macro < auc.interval[1]
    assert auc.difference_interval[0] <= auc.difference <= auc.difference_interval[1]
    assert np.ptp(auc.difference_interval) < np.ptp(auc.interval) / 3


def test_a_way_that_is_worse_is_told_from_one_that_is_not():
    labels, scores = scored()
    guess = np.random.default_rng(2).normal(size=scores.shape).astype(np.float32)
    same, worse = compare(labels, [scores, scores, guess], CLASSES, 200)[1:]
    assert same.difference == 0.0
    assert same.difference_interval == (0.0, 0.0)
    assert worse.difference_interval[1] < 0


def test_a_class_without_positives_is_null_and_left_out():
    labels, scores = scored()
    labels[:, 1] = 0.0
    (auc,) = compare(labels, [scores], CLASSES, 50)
    assert auc.per_class["MI"] is None
    assert auc.macro == auc.per_class["NORM"]
    (none,) = compare(np.zeros_like(labels), [scores], CLASSES, 50)
    assert (none.macro, none.interval, none.difference) == (None, None, None)
