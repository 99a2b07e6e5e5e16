"""Trouble on request stays the trouble that was asked for: it is told by nothing else a monitor looks at."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge.errors import RecordError, SignalError
from edge.replay.device import chunks_of, stamped
from edge.replay.patient import simulate
from edge.replay.perturb import Network, with_gain, with_lead_off, with_mains, with_noise, with_outage
from edge.replay.records import Recording
from edge.signal.leads import STANDARD_LEADS
from edge.signal.quality import Issue, QualityAssessor
from edge.stream.assembler import Assembler, AssemblerLimits
from edge.stream.runs import Reset

BEGUN_NS = 1_700_000_000_000_000_000
RATE_HZ = 100
PATIENT = simulate(30.0, RATE_HZ)
MUSCLE = Recording("ma", RATE_HZ, ("a", "b"), np.random.default_rng(0).standard_normal((3000, 2)), "ma")


def assembled(network, reorder_wait_s=5.0):
    """What the daemon's assembler makes of a patient's chunks as a network delivers them."""
    assembler = Assembler(AssemblerLimits(reorder_wait_s=reorder_wait_s))
    runs = []
    for departure in network.apply(chunks_of([PATIENT], "s", 0.2)):
        runs += assembler.poll(departure.due_s)
        runs += assembler.push(stamped(departure, BEGUN_NS), departure.due_s)
    return assembler, runs


@given(
    duplicate=st.floats(0, 0.9), reorder=st.floats(0, 0.9), jitter_s=st.floats(0, 1.0), seed=st.integers(0, 99)
)  # fmt: skip
def test_a_late_or_doubled_chunk_still_says_when_it_was_taken(duplicate, reorder, jitter_s, seed):
    for departure in Network(0.0, duplicate, reorder, jitter_s, seed).apply(chunks_of([PATIENT], "s", 0.2)):
        chunk = stamped(departure, BEGUN_NS)
        assert abs(chunk.time_ns - (BEGUN_NS + chunk.index * 10_000_000)) <= 1


@pytest.mark.parametrize("network", [Network(duplicate=0.5), Network(reorder=0.5, seed=1), Network(jitter_s=0.6)])
def test_duplicates_and_disorder_never_look_like_a_clock_set_back(network):
    assembler, runs = assembled(network)
    assert [run.reset for run in runs if run.reset] == [Reset.START]
    assert assembler.counters.bridged_gaps == 0
    samples_mv = np.concatenate([run.samples_mv for run in runs])
    assert np.abs(samples_mv - PATIENT.samples_mv[runs[0].index :]).max() <= 0.0005 + 1e-9


def test_what_is_lost_is_bridged_and_nothing_else():
    network = Network(loss=0.1, seed=4)
    arrived = {departure.chunk.number for departure in network.apply(chunks_of([PATIENT], "s", 0.2))}
    assembler, _ = assembled(network, reorder_wait_s=0.1)
    lost_inside = set(range(min(arrived), max(arrived))) - arrived
    assert lost_inside
    assert assembler.counters.bridged_samples == 20 * len(lost_inside)


def test_noise_leaves_einthovens_law_whole():
    noisy = with_noise(PATIENT, MUSCLE, 0.0)
    leads = dict(zip(noisy.leads, noisy.samples_mv.T, strict=True))
    assert np.allclose(leads["I"] + leads["III"], leads["II"], atol=1e-9)
    assert np.allclose(leads["aVR"] + leads["aVL"] + leads["aVF"], 0.0, atol=1e-9)
    assessor = QualityAssessor(STANDARD_LEADS, RATE_HZ)
    hops = noisy.samples_mv.reshape(-1, RATE_HZ, 12)
    issues = [assessor.assess(hop, np.zeros(hop.shape, dtype=bool)).issues for hop in hops]
    assert not any(found & Issue.EINTHOVEN for found in issues)


def test_noise_keeps_what_is_invalid_invalid_and_the_rest_valid():
    holey = PATIENT.samples_mv.copy()
    holey[100:200, 3], holey[:, 8] = np.nan, np.nan
    broken = MUSCLE.samples_mv.copy()
    broken[5] = np.nan
    noisy = with_noise(
        Recording("h", RATE_HZ, STANDARD_LEADS, holey, "h"), Recording("n", RATE_HZ, ("a", "b"), broken, "n"), 6.0
    )
    assert np.array_equal(np.isnan(noisy.samples_mv), np.isnan(holey))


def test_two_leads_are_made_noisy_each_at_its_ratio():
    rng = np.random.default_rng(1)
    two = Recording("100", RATE_HZ, ("MLII", "V5"), rng.standard_normal((1000, 2)), "100")
    added = with_noise(two, MUSCLE, 3.0).samples_mv - two.samples_mv
    assert np.allclose(10 * np.log10(two.samples_mv.var(axis=0) / added.var(axis=0)), 3.0)


def test_a_lead_taken_off_is_invalid_and_the_others_are_as_before():
    off = with_lead_off(PATIENT, ["v3", "aVL"])
    gone = [STANDARD_LEADS.index("V3"), STANDARD_LEADS.index("aVL")]
    assert np.isnan(off.samples_mv[:, gone]).all()
    assert np.array_equal(np.delete(off.samples_mv, gone, axis=1), np.delete(PATIENT.samples_mv, gone, axis=1))
    assert not np.isnan(PATIENT.samples_mv).any()
    assert "off" in off.source


def test_a_lead_that_is_not_there_cannot_be_taken_off():
    with pytest.raises(RecordError, match=r"no lead V9 .* it has I, II"):
        with_lead_off(PATIENT, ["V9"])


def test_gain_scales_every_lead_and_says_so():
    doubled = with_gain(PATIENT, 2.0)
    assert np.array_equal(doubled.samples_mv, 2 * PATIENT.samples_mv)
    assert "2 times" in doubled.source
    assert doubled.simulated


def test_hum_is_as_strong_as_asked_for_and_leaves_einthovens_law_whole():
    patient = simulate(4.0, 250)
    added = with_mains(patient, 60.0, 0.2, seed=1).samples_mv - patient.samples_mv
    leads = dict(zip(patient.leads, added.T, strict=True))
    assert np.allclose(leads["I"] + leads["III"], leads["II"], atol=1e-9)
    for lead in ("I", "II", "V1", "V6"):
        assert 0.1 <= np.abs(leads[lead]).max() <= 0.2
        spectrum = np.abs(np.fft.rfft(leads[lead]))
        assert np.argmax(spectrum) == 60 * 4


def test_hum_that_the_rate_cannot_hold_is_refused():
    with pytest.raises(SignalError, match=r"100 samples per second cannot hold 60 Hz"):
        with_mains(PATIENT, 60.0, 0.2)


@given(start_s=st.floats(0, 30), seconds=st.floats(0.05, 5), chunk_s=st.sampled_from([0.1, 0.2, 0.5]))
def test_an_outage_takes_the_chunks_of_its_time_and_no_others(start_s, seconds, chunk_s):
    departures = list(chunks_of([PATIENT], "s", chunk_s))
    left = {departure.chunk.number for departure in with_outage(departures, start_s, seconds)}
    for departure in departures:
        begin_s, end_s = departure.taken_s - len(departure.chunk.samples) / RATE_HZ, departure.taken_s
        overlap_s = min(end_s, start_s + seconds) - max(begin_s, start_s)
        if abs(overlap_s) > 1e-9:
            assert (departure.chunk.number in left) == (overlap_s < 0)
