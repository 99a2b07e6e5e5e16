"""Calibration: what outputs mean is found where it is known, classes are set right in the light of each other."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy.special import expit, softmax
from sklearn.metrics import roc_auc_score

from edge.runtime.base import calibrated
from edge.runtime.manifest import Calibration
from tests.scored import records_off_by, records_that_lean
from tests.tiny_bundle import tiny_manifest
from trainer.calibration import RECORDS_PER_CLASS, SCALE_RANGE, fit_calibration, fit_class, identity
from trainer.metrics import expected_calibration_error

LEANING = Calibration(scale=[1.5, 0.7], bias=[0.3, -1.0], others=[[0.0, -0.5], [0.25, 0.0]])
CHOOSING = Calibration(scale=[1.5, 0.7], bias=[0.3, -1.0], softmax=True)
logit_rows = arrays(np.float32, st.tuples(st.integers(1, 9), st.just(2)), elements=st.floats(-30, 30, width=32))


@pytest.mark.parametrize(("scale", "bias"), [(1.0, 0.0), (0.5, -1.0), (2.0, 0.7)])
def test_platt_scaling_finds_the_scale_and_bias_the_records_were_made_with(scale, bias):
    logits, positive = records_off_by(scale, bias)
    assert fit_class(logits, positive)[:2] == pytest.approx((scale, bias), abs=0.1)


def test_platt_scaling_calibrates():
    logits, positive = records_off_by(0.4, -1.0)
    scale, bias, weights = fit_class(logits, positive)
    assert weights == []
    assert expected_calibration_error(positive, expit(logits)) > 0.1
    assert expected_calibration_error(positive, expit(scale * logits + bias)) < 0.02


def test_separable_records_give_a_finite_scale():
    scale, bias, _ = fit_class(np.array([-3.0, -2.0, 2.0, 3.0]), np.array([False, False, True, True]))
    assert SCALE_RANGE[0] <= scale < SCALE_RANGE[1]
    assert abs(bias) < 5


def test_a_model_that_ranks_backwards_is_not_turned_around():
    logits, positive = records_off_by(-1.0, 0.0)
    assert fit_class(logits, positive)[0] == SCALE_RANGE[0]


def test_a_class_that_leans_on_another_is_set_right_for_records_it_was_not_fitted_on():
    fitted = fit_calibration(identity(2), *records_that_lean())
    assert fitted.others[1][0] == pytest.approx(-0.6, abs=0.15)
    assert fitted.others[0] == [0.0, pytest.approx(0.0, abs=0.03)]
    logits, labels = records_that_lean(seed=1)
    apart = [roc_auc_score(labels[:, 1], of) for of in (logits[:, 1], calibrated(fitted, logits)[:, 1])]
    assert apart[1] > apart[0] + 0.02
    assert expected_calibration_error(labels[:, 1] > 0.5, calibrated(fitted, logits)[:, 1]) < 0.02


def test_a_class_by_itself_keeps_its_ranking():
    logits, labels = records_that_lean()
    fitted = fit_calibration(identity(2), logits, labels, together=False)
    assert fitted.others == []
    np.testing.assert_array_equal(calibrated(fitted, logits).argsort(axis=0), logits.argsort(axis=0))


def test_few_records_do_not_tell_how_classes_lean_on_each_other():
    logits, labels = records_that_lean(records=2 * RECORDS_PER_CLASS - 1)
    few = fit_calibration(identity(2), logits, labels)
    assert few == fit_calibration(identity(2), logits, labels, together=False)
    assert fit_calibration(identity(2), *records_that_lean(records=2 * RECORDS_PER_CLASS)).others != []


def test_a_class_without_positives_keeps_what_it_had_and_lends_nothing():
    logits, labels = records_that_lean()
    labels[:, 0] = 0.0
    before = Calibration(scale=[1.5, 1.5], bias=[0.5, 0.5], others=[[0.0, 0.25], [0.75, 0.0]])
    fitted = fit_calibration(before, logits, labels)
    assert (fitted.scale[0], fitted.bias[0]) == (1.5, 0.5)
    assert fitted.scale[1] != 1.5
    assert fitted.others == [[0.0, 0.25], [0.0, 0.0]]


def test_probabilities_by_hand():
    said = calibrated(LEANING, np.array([2.0, -1.0], dtype=np.float32))
    assert said.tolist() == pytest.approx([expit(3.0 + 0.3 + 0.5), expit(-0.7 - 1.0 + 0.5)])


@pytest.mark.parametrize("calibration", [LEANING, CHOOSING], ids=["sigmoids", "softmax"])
@given(logit_rows)
def test_a_record_s_probabilities_are_the_same_bits_in_any_batch(calibration, logits):
    together = calibrated(calibration, logits)
    for row, alone in zip(logits, together, strict=True):
        assert calibrated(calibration, row).tobytes() == alone.tobytes()
        assert calibrated(calibration, row[np.newaxis, np.newaxis]).tobytes() == alone.tobytes()


@pytest.mark.parametrize("calibration", [LEANING, CHOOSING], ids=["sigmoids", "softmax"])
def test_a_record_that_is_not_finite_spoils_no_other(calibration):
    logits = np.array([[1.0, 2.0], [np.nan, 0.0], [np.inf, 0.0], [np.inf, -np.inf]], dtype=np.float32)
    assert calibrated(calibration, logits)[0].tobytes() == calibrated(calibration, logits[0]).tobytes()


@given(arrays(np.float32, (3, 5), elements=st.floats(-40, 40, width=32)))
def test_of_one_label_a_record_probabilities_are_a_softmax_s(outputs):
    said = calibrated(identity(5, softmax=True), outputs)
    np.testing.assert_allclose(said, softmax(outputs.astype(np.float64), axis=1), rtol=1e-9, atol=1e-26)


def test_a_softmax_is_calibrated_by_the_odds_of_each_class_against_the_others():
    odds, labels = records_that_lean()
    outputs = np.stack([odds[:, 0] + 7.0, np.full(len(odds), 7.0, np.float32)], axis=1)  # two classes: each other's no
    truth = np.stack([labels[:, 0], 1 - labels[:, 0]], axis=1)
    fitted = fit_calibration(identity(2, softmax=True), outputs, truth, together=False)
    assert fitted.softmax
    by_hand = fit_calibration(identity(2), np.stack([odds[:, 0], -odds[:, 0]], axis=1), truth, together=False)
    assert fitted.scale == pytest.approx(by_hand.scale, abs=1e-4)
    assert fitted.bias == pytest.approx(by_hand.bias, abs=1e-4)
    np.testing.assert_allclose(calibrated(fitted, outputs).sum(1), 1.0, atol=1e-3)


def test_a_softmax_is_of_two_classes_at_least_and_of_whole_windows():
    one = Calibration([1.0], [0.0], softmax=True)
    assert tiny_manifest(["MI"], calibration=one).problems() == [
        "calibration.softmax chooses between classes, and there is one"
    ]
    voting = {"vote_hops": 2, "model": tiny_manifest().model | {"vote_hops": 2}}
    assert tiny_manifest(**voting).problems() == []
    assert tiny_manifest(**voting, calibration=identity(5, softmax=True)).problems() == [
        "calibration.softmax and vote_hops do not go together"
    ]


@pytest.mark.parametrize(
    ("others", "said"),
    [
        ([[0.0, 1.0]], "calibration.others needs a row and a column per class"),
        ([[0.0], [1.0]], "calibration.others needs a row and a column per class"),
        ([[0.0, float("inf")], [0.0, 0.0]], "a number is not finite"),
    ],
)
def test_a_manifest_whose_calibration_does_not_fit_says_so(others, said):
    calibration = Calibration(scale=[1.0, 1.0], bias=[0.0, 0.0], others=others)
    assert [
        problem.startswith(said) for problem in tiny_manifest(["NORM", "MI"], calibration=calibration).problems()
    ] == [True]
