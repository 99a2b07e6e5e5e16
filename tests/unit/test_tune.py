"""Calibration and operating points: found where they are known, and safe where records are few."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.special import expit, logit

from edge.runtime.manifest import Calibration, OperatingPoint
from tests.tiny_bundle import tiny_manifest
from trainer.metrics import class_figures, expected_calibration_error
from trainer.tune import (
    ALERT_PRECISION,
    HYSTERESIS_LOGITS,
    SCALE_RANGE,
    f1_threshold,
    fit_platt,
    operating_point,
    precision_threshold,
    tune,
    tuned_manifest,
)

TRUTH = np.array([False, False, True, False, True, True])
PROBABILITIES = np.array([0.1, 0.2, 0.3, 0.6, 0.7, 0.9])

scored_records = st.lists(st.tuples(st.booleans(), st.integers(1, 99)), min_size=2, max_size=40).filter(
    lambda records: len({truth for truth, _ in records}) == 2
)


def as_arrays(records):
    return np.array([truth for truth, _ in records]), np.array([score / 100 for _, score in records])


def records_of(scale, bias, records=20_000, seed=0):
    """Logits of a model that is off by this scale and bias, and the truth."""
    rng = np.random.default_rng(seed)
    logits = rng.normal(0, 2, records)
    return logits, rng.random(records) < expit(scale * logits + bias)


@pytest.mark.parametrize(("scale", "bias"), [(1.0, 0.0), (0.5, -1.0), (2.0, 0.7)])
def test_platt_scaling_finds_the_scale_and_bias_the_records_were_made_with(scale, bias):
    logits, positive = records_of(scale, bias)
    assert fit_platt(logits, positive) == pytest.approx((scale, bias), abs=0.1)


def test_platt_scaling_calibrates():
    logits, positive = records_of(0.4, -1.0)
    scale, bias = fit_platt(logits, positive)
    assert expected_calibration_error(positive, expit(logits)) > 0.1
    assert expected_calibration_error(positive, expit(scale * logits + bias)) < 0.02


def test_separable_records_give_a_finite_scale():
    scale, bias = fit_platt(np.array([-3.0, -2.0, 2.0, 3.0]), np.array([False, False, True, True]))
    assert SCALE_RANGE[0] <= scale < SCALE_RANGE[1]
    assert abs(bias) < 5


def test_a_model_that_ranks_backwards_is_not_turned_around():
    logits, positive = records_of(-1.0, 0.0)
    assert fit_platt(logits, positive)[0] == SCALE_RANGE[0]


def test_f1_threshold_by_hand():
    # Calling the upper 4 gives 3 of 4 right and 3 of 3 found: F1 6/7, the best; the cut is midway to the next below.
    assert f1_threshold(TRUTH, PROBABILITIES) == pytest.approx(0.25)


def test_precision_threshold_by_hand():
    assert precision_threshold(TRUTH, PROBABILITIES, 0.7, 0.0) == pytest.approx(0.25)  # 3 of 4
    assert precision_threshold(TRUTH, PROBABILITIES, 0.8, 0.0) == pytest.approx(0.65)  # 2 of 2
    assert precision_threshold(TRUTH, PROBABILITIES, 0.8, 0.9) is None


@given(scored_records)
def test_no_other_cut_has_a_higher_f1(records):
    truth, probabilities = as_arrays(records)
    chosen = class_figures(truth, probabilities, f1_threshold(truth, probabilities)).f1
    assert chosen == pytest.approx(max(class_figures(truth, probabilities, cut).f1 for cut in set(probabilities)))


@given(scored_records)
def test_an_operating_point_is_ordered_and_alerts_are_right_often_enough_where_that_can_be(records):
    truth, probabilities = as_arrays(records)
    point, reached = operating_point(truth, probabilities)
    assert 0 < point.off < point.on < 1
    assert point.f1_threshold <= point.on
    assert logit(point.on) - logit(point.off) == pytest.approx(HYSTERESIS_LOGITS, abs=1e-3)
    if not reached:
        assert point.on == point.f1_threshold
    elif point.on > point.f1_threshold:
        assert class_figures(truth, probabilities, point.on).precision >= ALERT_PRECISION


def test_a_lucky_record_at_the_top_does_not_make_an_alert_threshold():
    probabilities = np.linspace(0.01, 0.99, 99)
    truth = np.arange(99) % 3 == 0
    truth[-1] = True
    point, reached = operating_point(truth, probabilities)
    assert precision_threshold(truth, probabilities, ALERT_PRECISION, 0.0) is not None
    assert not reached
    assert point.on == point.f1_threshold


def test_a_class_without_positives_keeps_what_the_bundle_has():
    manifest = tiny_manifest(
        calibration=Calibration(scale=[1.5, 1.5], bias=[0.5, 0.5]),
        operating_points={name: OperatingPoint(0.31, 0.41, 0.21, 2.0) for name in ("NORM", "MI")},
        classes=["NORM", "MI"],
    )
    logits, positive = records_of(1.0, 0.0, records=500)
    labels = np.stack([positive, np.zeros(500)], axis=1).astype(np.float32)
    tuning = tune(manifest, np.stack([logits, logits], axis=1).astype(np.float32), labels)
    assert tuning.operating_points["MI"] == manifest.operating_points["MI"]
    assert (tuning.calibration.scale[1], tuning.calibration.bias[1]) == (1.5, 0.5)
    assert tuning.operating_points["NORM"] != manifest.operating_points["NORM"]
    assert [note.split()[0] for note in tuning.notes] == ["MI"]


def test_thresholds_apply_to_calibrated_probabilities():
    manifest = tiny_manifest(classes=["NORM"])
    logits, positive = records_of(0.3, -1.0, records=4000)
    tuning = tune(manifest, logits[:, None].astype(np.float32), positive[:, None].astype(np.float32))
    scale, bias = tuning.calibration.scale[0], tuning.calibration.bias[0]
    chosen = tuning.operating_points["NORM"].f1_threshold
    best = max(class_figures(positive, expit(scale * logits + bias), cut).f1 for cut in np.linspace(0.05, 0.95, 91))
    assert class_figures(positive, expit(scale * logits + bias), chosen).f1 >= best


def test_tuning_changes_nothing_else_in_a_manifest():
    manifest = tiny_manifest()
    logits = np.random.default_rng(0).normal(size=(200, 5)).astype(np.float32)
    tuned = tuned_manifest(manifest, tune(manifest, logits, (logits > 0.5).astype(np.float32)), {"folds": [9]})
    changed = [name for name in manifest.__struct_fields__ if getattr(manifest, name) != getattr(tuned, name)]
    assert changed == ["calibration", "operating_points", "metrics"]
    assert tuned.problems() == []
