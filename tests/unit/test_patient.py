"""The simulated patient: it looks like what it claims to be, and says that it is not real."""

from __future__ import annotations

import numpy as np
import pytest

from edge.replay.patient import (
    ANTERIOR_ST_ELEVATION,
    LEFT_BUNDLE_BRANCH_BLOCK,
    LEFT_VENTRICULAR_HYPERTROPHY,
    SINUS,
    Episode,
    simulate,
)
from edge.signal.leads import STANDARD_LEADS
from edge.signal.quality import QualityAssessor

RATE_HZ = 500


def median_beat(morphology, seed=3):
    """One beat, (samples, leads), the median over 20 s; R stands at index 200 (400 ms)."""
    samples = simulate(20.0, RATE_HZ, seed, (Episode(morphology, 1000.0),)).samples_mv
    energy = np.abs(samples[:, STANDARD_LEADS.index("II")] - np.median(samples[:, STANDARD_LEADS.index("II")]))
    peaks = [at for at in range(300, len(samples) - 400) if energy[at] == energy[at - 200 : at + 200].max()]
    beats = np.stack([samples[at - 200 : at + 300] for at in peaks])
    beat = np.median(beats, axis=0)
    return beat - np.median(beat[100:140], axis=0)  # against the PQ level


def lead(beat, name):
    return beat[:, STANDARD_LEADS.index(name)]


def test_a_normal_beat_points_where_a_heart_does():
    beat = median_beat(SINUS)
    for upright in ("I", "II", "V5", "V6"):
        assert lead(beat, upright)[190:210].max() > 0.4
    assert lead(beat, "aVR")[190:210].min() < -0.4
    r_waves = [lead(beat, name)[185:215].max() for name in ("V1", "V2", "V3", "V4")]
    assert r_waves == sorted(r_waves)
    assert lead(beat, "V1")[190:230].min() < -0.5  # deep S


def test_st_elevation_is_anterior():
    normal, ischaemic = median_beat(SINUS), median_beat(ANTERIOR_ST_ELEVATION)
    at = 200 + round(0.11 * RATE_HZ)
    for name in ("V2", "V3", "V4"):
        assert lead(ischaemic, name)[at] - lead(normal, name)[at] > 0.2
    assert abs(lead(ischaemic, "II")[at] - lead(normal, "II")[at]) < 0.1


def test_a_bundle_branch_block_is_wide_and_hypertrophy_is_tall():
    def width_ms(beat):
        slopes = np.abs(np.diff(lead(beat, "V6")))
        return np.ptp(np.flatnonzero(slopes > 0.15 * slopes.max())) / RATE_HZ * 1000

    assert width_ms(median_beat(LEFT_BUNDLE_BRANCH_BLOCK)) > 120 > width_ms(median_beat(SINUS))
    tall = median_beat(LEFT_VENTRICULAR_HYPERTROPHY)
    assert lead(tall, "V5").max() - lead(tall, "V1").min() > 3.5  # Sokolow-Lyon, in mV


@pytest.mark.parametrize("rate_hz", [100, 500])
def test_its_limb_leads_obey_einthoven_exactly_and_its_signal_is_clean(rate_hz):
    recording = simulate(30.0, rate_hz, seed=1)
    leads = dict(zip(recording.leads, recording.samples_mv.T, strict=True))
    assert np.allclose(leads["I"] + leads["III"], leads["II"], atol=1e-12)
    assert np.allclose(leads["aVR"], -(leads["I"] + leads["II"]) / 2, atol=1e-12)
    assessor = QualityAssessor(STANDARD_LEADS, rate_hz)
    hops = recording.samples_mv.reshape(30, rate_hz, 12)
    assert all(assessor.assess(hop, np.zeros(hop.shape, dtype=bool)).good for hop in hops)


def test_a_seed_is_a_patient():
    assert np.array_equal(simulate(5.0, seed=1).samples_mv, simulate(5.0, seed=1).samples_mv)
    assert not np.array_equal(simulate(5.0, seed=1).samples_mv, simulate(5.0, seed=2).samples_mv)


def test_it_says_that_it_is_simulated():
    recording = simulate(1.0)
    assert recording.simulated
    assert "not real" in recording.source
