"""Records made worse reach the model as a device's stream would bring them."""

from __future__ import annotations

import os
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest

from edge.monitor.offline import hops_of
from edge.replay.patient import simulate
from edge.replay.records import Recording
from edge.runtime.select import open_runtime
from edge.signal.invalid import MISSING
from edge.signal.leads import STANDARD_LEADS
from edge.signal.quality import Issue, QualityAssessor
from tests.tiny_bundle import tiny_bundle, tiny_manifest
from tests.tiny_ptbxl import rows_of, write_ptbxl
from trainer.ptbxl import open_ptbxl
from trainer.stream_evaluation.robustness import CLEAN, GAPS_S, LOST_LEADS, NOISES, SNRS_DB, conditions, score_under
from trainer.streams.alerts import policy_of
from trainer.streams.warm import score_cold

PATIENT = Recording("p", 100, STANDARD_LEADS, simulate(10.0, 100).samples_mv, "simulated")
BY_NAME = {(condition.name, condition.level): condition for condition in conditions(None)}


@pytest.fixture(scope="session")
def nstdb_root():
    named = os.environ.get("NSTDB_ROOT")
    if not named:
        pytest.skip("NSTDB_ROOT is not set: tests with recorded noise need PhysioNet's nstdb")
    return Path(named)


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    folder = tmp_path_factory.mktemp("data")
    return open_ptbxl(write_ptbxl(folder / "ptb-xl", rows_of(["NORM", "IMI"] * 3, [9])), folder / "cache")


@pytest.fixture(scope="module")
def runtime(tmp_path_factory):
    return open_runtime(tiny_bundle(tmp_path_factory.mktemp("bundles") / "tiny"))


def hops_under(name, level, seed=7):
    return BY_NAME[name, level].hops(tiny_manifest(), PATIENT, seed)


def test_without_a_disturbance_a_record_is_a_cold_stream():
    for hop, expected in zip(
        CLEAN.hops(tiny_manifest(), PATIENT, 0), hops_of(tiny_manifest(), PATIENT.samples_mv, 100, STANDARD_LEADS),
        strict=True,
    ):  # fmt: skip
        np.testing.assert_array_equal(hop.frames, expected.frames)


@pytest.mark.parametrize("gap_s", GAPS_S)
def test_a_gap_is_bridged_marked_and_leaves_the_rest_of_the_record_in_its_place(gap_s):
    hops, clean = hops_under("gap", gap_s), hops_of(tiny_manifest(), PATIENT.samples_mv, 100, STANDARD_LEADS)
    assert len(hops) == 10
    assert [hop.reset for hop in hops[1:]] == [None] * 9
    assert sum(int((hop.invalid[:, 0] == MISSING).sum()) for hop in hops) == gap_s * 100
    for k in (0, 4, 8, 9):
        np.testing.assert_allclose(hops[k].raw_mv, clean[k].raw_mv, atol=0.0006)  # the wire's microvolts


@pytest.mark.parametrize("count", LOST_LEADS)
def test_lost_leads_are_reported_as_off_in_every_hop(count):
    assessor = QualityAssessor(STANDARD_LEADS, 100)
    for hop in hops_under("leads lost", count):
        report = assessor.assess(hop.raw_mv, hop.invalid)
        assert sum(bool(of_lead & Issue.LEAD_OFF) for of_lead in report.lead_issues) == count
        assert not report.good


def test_the_leads_that_are_lost_are_lost_at_every_level():
    lost = [{k for k in range(12) if hops_under("leads lost", count)[0].invalid[:, k].all()} for count in LOST_LEADS]
    assert all(fewer < more for fewer, more in pairwise(lost))


def test_hum_comes_through_the_resampler_of_a_device():
    quiet, hums = hops_under("mains hum", 0.0), [hops_under("mains hum", hz) for hz in (50.0, 60.0)]
    assert all(len(hops) == 10 and len(hops[0].invalid) < 250 for hops in [quiet, *hums])
    left = [np.abs(hum[5].raw_mv - quiet[5].raw_mv).max() for hum in hums]
    assert left[1] < 0.01 < left[0] < 0.2  # its stop band holds 60 Hz back; 50 Hz, half the model's rate, is its edge


def test_gain_is_the_devices_mistake():
    louder = hops_under("gain", 2.0)
    np.testing.assert_allclose(louder[3].raw_mv, 2 * PATIENT.samples_mv[300:400])


def test_noise_curves_need_the_recordings(nstdb_root):
    assert not {condition.name for condition in conditions(None)} & set(NOISES.values())
    noisy = [condition for condition in conditions(nstdb_root) if condition.unit == "dB"]
    assert [(c.name, c.level) for c in noisy] == [(name, snr_db) for name in NOISES.values() for snr_db in SNRS_DB]
    worst = noisy[-1].perturb(PATIENT, 3)
    added = worst.samples_mv - PATIENT.samples_mv
    assert 10 * np.log10(PATIENT.samples_mv[:, 0].var() / added[:, 0].var()) == pytest.approx(0.0, abs=1e-6)


def test_conditions_score_all_records_and_tell_which_are_decided(data, runtime):
    rows, policy = np.arange(6), policy_of(runtime.bundle.manifest)
    clean = score_under(CLEAN, runtime, data, rows, policy)
    np.testing.assert_allclose(clean.logits, score_cold(runtime, data, rows, "matched").logits[:, -1], atol=1e-5)
    lost = score_under(BY_NAME["leads lost", 6], runtime, data, rows, policy)
    assert not lost.decided.any()
    assert np.abs(lost.logits - clean.logits).max() > 1e-4
    assert len(conditions(None, quick=True)) < len(BY_NAME)
