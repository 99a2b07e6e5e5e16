"""Calibration and operating points: found where they are known, and safe where records are few."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.special import expit

from edge.runtime.base import calibrated
from edge.runtime.manifest import Calibration, OperatingPoint
from tests.scored import records_off_by, records_that_lean
from tests.tiny_bundle import tiny_manifest
from trainer.metrics import class_figures, figures
from trainer.tune import SPLITS, cross_fit, f1_threshold, tune, with_f1_thresholds

calibrated_probabilities = st.lists(st.integers(1, 99), min_size=1, max_size=40).map(lambda each: np.array(each) / 100)


def expected_f1(probabilities, cut):
    """The F1 of calling what reaches a cut, in the mean, if the probabilities are true."""
    called = probabilities >= cut
    return 2 * probabilities[called].sum() / (called.sum() + probabilities.sum())


def f1_of(truth, called):
    return 2 * (truth & called).sum() / (truth.sum() + called.sum())


def test_f1_threshold_by_hand():
    # Calling the upper 2 of 0.1, 0.4, 0.9 foretells 1.3 right of 2 called and 1.4 to find: 2.6 / 3.4, the best.
    assert f1_threshold(np.array([0.1, 0.9, 0.4])) == pytest.approx(0.25)
    assert expected_f1(np.array([0.1, 0.9, 0.4]), 0.25) == pytest.approx(2.6 / 3.4)


@given(calibrated_probabilities)
def test_no_other_cut_foretells_a_higher_f1(probabilities):
    chosen = expected_f1(probabilities, f1_threshold(probabilities))
    assert chosen == pytest.approx(max(expected_f1(probabilities, cut) for cut in probabilities))


def test_a_threshold_from_few_records_does_as_well_on_others_as_any():
    """Of 20 draws of 300 records, against the thresholds that were best for the labels of each draw."""
    rng = np.random.default_rng(0)
    probabilities = rng.beta(0.3, 1.5, (21, 20_000))
    positive = rng.random(probabilities.shape) < probabilities
    foretold, fitted = [], []
    for of_draw, truth in zip(probabilities[1:, :300], positive[1:, :300], strict=True):
        best = of_draw[np.argmax([f1_of(truth, of_draw >= cut) for cut in of_draw])]
        for figures_of, cut in ((foretold, f1_threshold(of_draw)), (fitted, best)):
            figures_of.append(f1_of(positive[0], probabilities[0] >= cut))
    assert np.mean(foretold) > np.mean(fitted) + 0.002


def test_a_class_without_positives_keeps_what_the_bundle_has():
    manifest = tiny_manifest(
        calibration=Calibration(scale=[1.5, 1.5], bias=[0.5, 0.5]),
        operating_points={name: OperatingPoint(0.31, 0.41, 0.21, 2.0) for name in ("NORM", "MI")},
        classes=["NORM", "MI"],
    )
    logits, positive = records_off_by(1.0, 0.0, records=500)
    labels = np.stack([positive, np.zeros(500)], axis=1).astype(np.float32)
    tuning = tune(manifest, np.stack([logits, logits], axis=1).astype(np.float32), labels)
    assert tuning.f1_thresholds["MI"] == 0.31
    assert (tuning.calibration.scale[1], tuning.calibration.bias[1]) == (1.5, 0.5)
    assert tuning.f1_thresholds["NORM"] != 0.31
    assert [note.split()[0] for note in tuning.notes] == ["MI"]


def test_thresholds_apply_to_calibrated_probabilities():
    manifest = tiny_manifest(classes=["NORM"])
    logits, positive = records_off_by(0.3, -1.0, records=4000)
    tuning = tune(manifest, logits[:, None].astype(np.float32), positive[:, None].astype(np.float32))
    scale, bias = tuning.calibration.scale[0], tuning.calibration.bias[0]
    chosen = tuning.f1_thresholds["NORM"]
    best = max(class_figures(positive, expit(scale * logits + bias), cut).f1 for cut in np.linspace(0.05, 0.95, 91))
    found = class_figures(positive, expit(scale * logits + bias), chosen).f1
    assert found == pytest.approx(best, abs=0.003)
    assert class_figures(positive, expit(logits), chosen).f1 < found - 0.003  # of what is not calibrated


def test_thresholds_for_f1_leave_those_of_alerts_alone():
    manifest = tiny_manifest()
    logits = np.random.default_rng(0).normal(size=(200, 5)).astype(np.float32)
    tuned = with_f1_thresholds(manifest, tune(manifest, logits, (logits > 0.5).astype(np.float32)))
    changed = [name for name in manifest.__struct_fields__ if getattr(manifest, name) != getattr(tuned, name)]
    assert changed == ["calibration", "operating_points"]
    assert tuned.problems() == []
    for name, point in tuned.operating_points.items():
        before = manifest.operating_points[name]
        assert point.f1_threshold != before.f1_threshold
        if name == "NORM":  # raises no alert: its `on` says when it is called
            assert point.off < point.on == point.f1_threshold
        else:
            assert (point.on, point.off, point.dwell_s) == (before.on, before.off, before.dwell_s)


def noise_and_patients(records=400, classes=5, seed=0):
    """Logits that say nothing of the labels, two records of each patient."""
    rng = np.random.default_rng(seed)
    labels = (rng.random((records, classes)) < 0.3).astype(np.float32)
    return rng.normal(size=(records, classes)).astype(np.float32), labels, np.arange(records) // 2


def test_cross_fitting_does_not_flatter_as_tuning_on_the_same_records_does():
    logits, labels, patients = noise_and_patients()
    manifest = tiny_manifest()
    own = tune(manifest, logits, labels)
    calls = [own.f1_thresholds[name] for name in manifest.classes]
    flattering = figures(labels, calibrated(own.calibration, logits), calls, manifest.classes)
    apart = cross_fit(manifest, logits, labels, patients, seed=0)
    assert apart.macro_f1 < flattering.macro_f1
    assert apart.ece > flattering.ece
    assert (apart.splits, list(apart.f1_per_class)) == (SPLITS, manifest.classes)


def test_cross_fitting_a_perfect_ranking_finds_it_perfect():
    rng = np.random.default_rng(0)
    labels = (rng.random((400, 5)) < 0.4).astype(np.float32)
    logits = (np.where(labels > 0.5, 3.0, -3.0) + rng.uniform(-1, 1, labels.shape)).astype(np.float32)
    apart = cross_fit(tiny_manifest(), logits, labels, np.arange(400), seed=0)
    assert apart.macro_f1 == pytest.approx(1.0)
    assert apart.macro_auprc == pytest.approx(1.0)
    assert apart.macro_auc == pytest.approx(1.0)


def test_cross_fitting_shows_what_setting_leaning_classes_right_gives():
    logits, labels = records_that_lean(records=2000)
    apart = cross_fit(tiny_manifest(["NORM", "MI"]), logits, labels, np.arange(2000) // 2, seed=0)
    alone = figures(labels, expit(logits.astype(np.float64)), [0.5, 0.5], ["NORM", "MI"])
    assert apart.macro_auc > alone.macro_auc + 0.01


def test_a_class_that_cannot_be_measured_is_null_and_left_out():
    logits, labels, patients = noise_and_patients()
    labels[:, 4] = 0.0
    apart = cross_fit(tiny_manifest(), logits, labels, patients, seed=0)
    assert apart.f1_per_class["HYP"] is None
    assert apart.macro_f1 == pytest.approx(np.mean([apart.f1_per_class[name] for name in ("NORM", "MI", "STTC", "CD")]))


def test_cross_fitting_knows_nothing_of_what_was_tuned_on_the_same_records():
    """All positives of a class are one patient's: in every halving, one half cannot fit it."""
    logits, labels, patients = noise_and_patients()
    labels[:, 4] = patients == 7
    fresh = tiny_manifest()
    tuned = with_f1_thresholds(fresh, tune(fresh, logits, labels))
    assert tuned.operating_points["HYP"].f1_threshold != 0.5
    assert cross_fit(tuned, logits, labels, patients, seed=0) == cross_fit(fresh, logits, labels, patients, seed=0)
