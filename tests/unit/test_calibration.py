"""Calibration: what outputs mean is found where it is known, classes are set right in the light of each other."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy.special import expit
from sklearn.metrics import roc_auc_score

from edge.runtime.base import calibrated
from edge.runtime.manifest import Calibration
from tests.scored import records_off_by, records_that_lean
from tests.tiny_bundle import tiny_manifest
from trainer.calibration import RECORDS_PER_CLASS, SCALE_RANGE, fit_calibration, fit_class, identity
from trainer.metrics import expected_calibration_error

LEANING = Calibration(scale=[1.5, 0.7], bias=[0.3, -1.0], others=[[0.0, -0.5], [0.25, 0.0]])
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


@given(logit_rows)
def test_a_record_s_probabilities_are_the_same_bits_in_any_batch(logits):
    together = calibrated(LEANING, logits)
    for row, alone in zip(logits, together, strict=True):
        assert calibrated(LEANING, row).tobytes() == alone.tobytes()
        assert calibrated(LEANING, row[np.newaxis, np.newaxis]).tobytes() == alone.tobytes()


def test_a_record_that_is_not_finite_spoils_no_other():
    logits = np.array([[1.0, 2.0], [np.nan, 0.0], [np.inf, 0.0]], dtype=np.float32)
    assert calibrated(LEANING, logits)[0].tobytes() == calibrated(LEANING, logits[0]).tobytes()


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
