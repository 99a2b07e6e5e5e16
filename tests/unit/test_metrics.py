"""Figures and their intervals: hand-checked cases, and what must hold for any scores."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.special import expit
from sklearn.metrics import average_precision_score, precision_recall_fscore_support, roc_auc_score

from trainer.bootstrap import bootstrap_intervals, drawn_counts, mean_of_known, weighted_calls, weighted_ranking
from trainer.metrics import class_figures, confusion, expected_calibration_error, figures, reliability

TRUTH = np.array([True, False, True, False, True])
SCORES = np.array([0.9, 0.8, 0.7, 0.3, 0.2])

# Few distinct values, so that ties are common.
scored_records = st.lists(st.tuples(st.booleans(), st.integers(1, 9)), min_size=2, max_size=60).filter(
    lambda records: len({truth for truth, _ in records}) == 2
)


def as_arrays(records):
    return np.array([truth for truth, _ in records]), np.array([score / 10 for _, score in records])


def labels_and_probabilities(seed=0, records=400, separation=1.5, classes=3):
    """Records whose classes a model tells apart fairly well."""
    rng = np.random.default_rng(seed)
    labels = (rng.random((records, classes)) < 0.3).astype(np.float32)
    return labels, expit(rng.normal(separation * labels - 1.0, 1.0))


def test_one_class_by_hand():
    # Pairs in the right order: 0.9 beats 0.8 and 0.3, 0.7 beats 0.3, 0.2 beats none: 3 of 6.
    # Precision at each hit: 1/1, 2/3, 3/5.
    row = class_figures(TRUTH, SCORES, threshold=0.5)
    assert row.auc == pytest.approx(3 / 6)
    assert row.auprc == pytest.approx((1 + 2 / 3 + 3 / 5) / 3)
    assert (row.precision, row.recall, row.f1) == (pytest.approx(2 / 3), pytest.approx(2 / 3), pytest.approx(2 / 3))
    assert row.positives == 3


def test_confusion_by_hand():
    counts = confusion(TRUTH, SCORES >= 0.5)
    assert (counts.true_positives, counts.false_positives) == (2, 1)
    assert (counts.false_negatives, counts.true_negatives) == (1, 1)


def test_a_probability_equal_to_the_threshold_is_called():
    assert class_figures(TRUTH, SCORES, threshold=0.2).recall == 1.0


def test_nothing_called_is_precision_and_f1_zero():
    row = class_figures(TRUTH, SCORES, threshold=0.95)
    assert (row.precision, row.recall, row.f1) == (0.0, 0.0, 0.0)


def test_macro_figures_are_means_over_classes():
    labels, probabilities = labels_and_probabilities()
    measured = figures(labels, probabilities, [0.3, 0.5, 0.7], ["A", "B", "C"])
    assert measured.n_records == 400
    assert measured.macro_auc == pytest.approx(roc_auc_score(labels, probabilities, average="macro"))
    assert measured.macro_auprc == pytest.approx(average_precision_score(labels, probabilities, average="macro"))
    called = probabilities >= np.array([0.3, 0.5, 0.7])
    precision, recall, f1, _ = precision_recall_fscore_support(labels, called, average="macro")
    assert (measured.macro_precision, measured.macro_recall, measured.macro_f1) == pytest.approx(
        (precision, recall, f1)
    )


@pytest.mark.parametrize(("value", "why"), [(0.0, "no record has it"), (1.0, "every record has it")])
def test_a_class_that_cannot_be_measured_is_null_and_left_out_with_a_note(value, why):
    labels, probabilities = labels_and_probabilities()
    labels[:, 1] = value
    measured = figures(labels, probabilities, [0.5] * 3, ["A", "B", "C"])
    row = measured.per_class["B"]
    assert {row.auc, row.auprc, row.precision, row.recall, row.f1, row.ece} == {None}
    both = figures(labels[:, [0, 2]], probabilities[:, [0, 2]], [0.5] * 2, ["A", "C"])
    assert (measured.macro_auc, measured.macro_f1, measured.ece) == (both.macro_auc, both.macro_f1, both.ece)
    assert measured.notes == [f"B: {why}; left out of the macro figures"]


def test_macro_figures_are_null_when_no_class_can_be_measured():
    measured = figures(np.zeros((4, 2), np.float32), np.full((4, 2), 0.5), [0.5] * 2, ["A", "B"])
    assert (measured.macro_auc, measured.macro_f1, measured.ece) == (None, None, None)


@given(scored_records, st.floats(0.1, 5), st.floats(-3, 3))
def test_ranking_figures_do_not_change_under_a_monotone_map(records, scale, bias):
    truth, scores = as_arrays(records)
    plain = class_figures(truth, scores, 0.5)
    mapped = class_figures(truth, expit(scale * scores + bias), 0.5)
    assert (mapped.auc, mapped.auprc) == (plain.auc, plain.auprc)


@given(scored_records)
def test_reversing_the_scores_mirrors_the_auc(records):
    truth, scores = as_arrays(records)
    assert class_figures(truth, 1 - scores, 0.5).auc == pytest.approx(1 - class_figures(truth, scores, 0.5).auc)


def test_calibration_error_by_hand():
    # Two bins hold 2 records each: mean 0.1 with none positive, mean 0.9 with half: (0.1 + 0.4) / 2.
    truth, probabilities = np.array([False, False, True, False]), np.array([0.1, 0.1, 0.9, 0.9])
    assert expected_calibration_error(truth, probabilities) == pytest.approx(0.25)


def test_calibrated_probabilities_have_an_error_near_zero_and_overconfident_ones_do_not():
    rng = np.random.default_rng(0)
    logits = rng.normal(0, 2, 50_000)
    truth = rng.random(50_000) < expit(logits)
    assert expected_calibration_error(truth, expit(logits)) < 0.01
    assert expected_calibration_error(truth, expit(3 * logits)) > 0.05


def test_reliability_takes_zero_and_one_and_leaves_out_empty_bins():
    binned = reliability(np.array([False, True, True]), np.array([0.0, 1.0, 1.0]), bins=10)
    assert binned.predicted.tolist() == [0.0, 1.0]
    assert binned.observed.tolist() == [0.0, 1.0]
    assert binned.counts.tolist() == [1, 2]


@given(scored_records, st.integers(0, 2**32 - 1))
def test_weighted_figures_are_those_of_the_records_as_often_as_drawn(records, seed):
    truth, scores = as_arrays(records)
    weights = drawn_counts(len(truth), 4, np.random.default_rng(seed))
    ranking = np.transpose(weighted_ranking(truth, scores, weights))
    calls = np.transpose(weighted_calls(truth, scores >= 0.5, weights))
    for row, counts in enumerate(weights.astype(int)):
        drawn_truth, drawn_scores = np.repeat(truth, counts), np.repeat(scores, counts)
        expected = class_figures(drawn_truth, drawn_scores, 0.5)
        if expected.auc is None:
            assert np.isnan(ranking[row]).all()
        else:
            assert ranking[row] == pytest.approx([expected.auc, expected.auprc])
            assert calls[row] == pytest.approx([expected.precision, expected.recall, expected.f1])


def test_every_replicate_draws_as_many_records_as_there_are():
    assert drawn_counts(37, 5, np.random.default_rng(0)).sum(axis=1).tolist() == [37] * 5


def test_intervals_cover_the_figures():
    labels, probabilities = labels_and_probabilities()
    classes, thresholds = ["A", "B", "C"], [0.4] * 3
    measured = figures(labels, probabilities, thresholds, classes)
    drawn = bootstrap_intervals(labels, probabilities, thresholds, classes, replicates=500, seed=0)
    for measure, (low, high) in drawn.macro.items():
        assert low < getattr(measured, f"macro_{measure}") < high
    for name in classes:
        for measure, (low, high) in drawn.per_class[name].items():
            assert low < getattr(measured.per_class[name], measure) < high


def test_intervals_have_the_width_theory_gives():
    # DeLong et al. 1988: the variance of an AUC from each record's share of pairs in the right order.
    labels, probabilities = labels_and_probabilities(records=2000, classes=1)
    positives, negatives = (probabilities[labels[:, 0] == value, 0] for value in (1, 0))
    right_order = positives[:, None] > negatives
    variance = right_order.mean(1).var(ddof=1) / len(positives) + right_order.mean(0).var(ddof=1) / len(negatives)
    low, high = bootstrap_intervals(labels, probabilities, [0.5], ["A"], replicates=1000, seed=1).macro["auc"]
    assert high - low == pytest.approx(2 * 1.96 * np.sqrt(variance), rel=0.1)


def test_a_seed_gives_the_same_intervals_again_and_another_seed_others():
    labels, probabilities = labels_and_probabilities()
    first, again, other = (
        bootstrap_intervals(labels, probabilities, [0.5] * 3, ["A", "B", "C"], replicates=50, seed=seed).macro["auc"]
        for seed in (7, 7, 8)
    )
    assert first == again
    assert first != other


def test_an_unmeasurable_class_has_no_interval_and_does_not_spoil_the_macro_one():
    labels, probabilities = labels_and_probabilities()
    labels[:, 2] = 0
    drawn = bootstrap_intervals(labels, probabilities, [0.5] * 3, ["A", "B", "C"], replicates=50, seed=0)
    assert set(drawn.per_class["C"].values()) == {None}
    both = bootstrap_intervals(labels[:, :2], probabilities[:, :2], [0.5] * 2, ["A", "B"], replicates=50, seed=0)
    assert drawn.macro == both.macro


def test_a_class_so_rare_that_replicates_miss_it_counts_in_those_that_do_not():
    labels, probabilities = labels_and_probabilities()
    labels[:, 2] = 0
    labels[0, 2] = 1
    drawn = bootstrap_intervals(labels, probabilities, [0.5] * 3, ["A", "B", "C"], replicates=50, seed=0)
    measured = figures(labels, probabilities, [0.5] * 3, ["A", "B", "C"])
    low, high = drawn.macro["auc"]
    assert low < measured.macro_auc < high
    assert mean_of_known(np.array([[1.0, np.nan, 3.0], [np.nan] * 3]), axis=1).tolist()[0] == 2.0
