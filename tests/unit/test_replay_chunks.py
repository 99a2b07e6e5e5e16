"""Recordings as chunks: every sample once and on time, and networks that misbehave as asked."""

from __future__ import annotations

from collections import Counter
from itertools import pairwise

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge.errors import RecordError
from edge.replay.device import Departure, chunks_of, quantised, stamped
from edge.replay.patient import simulate
from edge.replay.perturb import Network, resampled, with_noise
from edge.replay.records import Recording
from edge.signal.leads import STANDARD_LEADS
from edge.stream.wire import INVALID_SAMPLE, Chunk

MITDB_LEADS = ("MLII", "V5")


def recording(samples=400, rate_hz=100, offset=0.0, leads=STANDARD_LEADS, name="r"):
    ramp = np.arange(samples)[:, None] / 1000 + np.zeros(len(leads)) + offset
    return Recording(name, rate_hz, leads, ramp, name)


def joined(departures):
    return np.concatenate([departure.chunk.samples for departure in departures])


@given(chunk_s=st.floats(0.01, 5.0))
def test_every_sample_leaves_once_in_order_when_it_would_have_been_taken(chunk_s):
    departures = list(chunks_of([recording()], "s", chunk_s))
    assert np.array_equal(joined(departures)[:, 0], np.arange(400))
    for departure in departures:
        assert departure.due_s == pytest.approx(departure.chunk.end / 100)
    assert [d.chunk.number for d in departures] == list(range(len(departures)))


def test_records_fade_into_one_another_within_a_session():
    departures = list(chunks_of([recording(), recording(offset=10.0)], "s", 0.2, crossfade_s=0.5))
    values = joined(departures)[:, 0]
    assert len(values) == 750
    assert np.abs(np.diff(values.astype(float))).max() < 300  # 10 V apart, but no step
    assert {d.chunk.session for d in departures} == {"s"}
    assert [d.chunk.index for d in departures] == list(np.cumsum([0, *(len(d.chunk.samples) for d in departures[:-1])]))


def test_records_can_be_sessions_of_their_own():
    departures = list(chunks_of([recording(), recording(rate_hz=500, leads=MITDB_LEADS)], "s", 0.2, crossfade_s=None))
    sessions = [d.chunk.session for d in departures]
    assert list(dict.fromkeys(sessions)) == ["s-1", "s-2"]
    assert next(d.chunk.index for d in departures if d.chunk.session == "s-2") == 0
    assert departures[-1].due_s == pytest.approx(4.0 + 0.8)


def test_records_that_differ_cannot_fade():
    with pytest.raises(RecordError, match="--between session"):
        list(chunks_of([recording(), recording(rate_hz=500)], "s", 0.2))


def test_what_cannot_be_sent_becomes_the_invalid_sample():
    assert quantised(np.array([[np.nan, 40.0, -40.0, 1.2344, -32.767]])).tolist() == [
        [INVALID_SAMPLE, INVALID_SAMPLE, INVALID_SAMPLE, 1234, -32767]
    ]


def test_the_time_stamp_is_that_of_the_first_sample():
    (first, second) = chunks_of([recording(samples=40)], "s", 0.2)
    assert stamped(first, 1_000_000_000).time_ns == 1_000_000_000
    assert stamped(second, 1_000_000_000).time_ns == 1_200_000_000


def steady(count):
    chunk = Chunk("s", 0, 0, None, 100, ("I",), np.zeros((20, 1), dtype=np.int16))
    return [Departure(0.2 * (n + 1), msgspec.structs.replace(chunk, number=n, index=20 * n)) for n in range(count)]


def seen(arrivals):
    return [(arrival.due_s, arrival.chunk.number) for arrival in arrivals]


def test_a_perfect_network_changes_nothing():
    assert seen(Network().apply(steady(50))) == seen(steady(50))


def test_loss_duplication_and_reordering_happen_as_often_as_asked():
    sent = steady(4000)
    lost = list(Network(loss=0.1, seed=1).apply(sent))
    assert len(lost) == pytest.approx(3600, abs=80)
    doubled = Counter(d.chunk.number for d in Network(duplicate=0.1, seed=2).apply(sent))
    assert sum(count == 2 for count in doubled.values()) == pytest.approx(400, abs=80)
    order = [d.chunk.number for d in Network(reorder=0.1, seed=3).apply(sent)]
    assert sorted(order) == list(range(4000))
    assert sum(b < a for a, b in pairwise(order)) == pytest.approx(360, abs=90)


@given(
    loss=st.floats(0, 0.5), duplicate=st.floats(0, 0.5), reorder=st.floats(0, 0.5), jitter_s=st.floats(0, 2.0),
    seed=st.integers(0, 9),
)  # fmt: skip
def test_arrivals_come_in_time_and_never_early(loss, duplicate, reorder, jitter_s, seed):
    arrivals = list(Network(loss, duplicate, reorder, jitter_s, seed).apply(steady(60)))
    times = [arrival.due_s for arrival in arrivals]
    assert times == sorted(times)
    assert all(arrival.due_s >= 0.2 * (arrival.chunk.number + 1) - 1e-9 for arrival in arrivals)
    assert seen(arrivals) == seen(Network(loss, duplicate, reorder, jitter_s, seed).apply(steady(60)))


@pytest.mark.parametrize("snr_db", [-6.0, 0.0, 12.0])
def test_noise_is_as_strong_as_asked_and_the_original_stays(snr_db):
    clean = simulate(10.0, 250)
    before = clean.samples_mv.copy()
    rng = np.random.default_rng(0)
    noise = resampled(Recording("em", 360, ("a", "b"), rng.standard_normal((3600, 2)).cumsum(0) * 0.01, "em"), 250)
    noisy = with_noise(clean, noise, snr_db)
    added = noisy.samples_mv - clean.samples_mv
    ratio_db = 10 * np.log10(clean.samples_mv.var(axis=0) / added.var(axis=0))
    independent = [STANDARD_LEADS.index(name) for name in ("I", "II", "V1", "V2", "V3", "V4", "V5", "V6")]
    assert np.allclose(ratio_db[independent], snr_db, atol=1e-6)
    assert np.array_equal(clean.samples_mv, before)
    assert f"{snr_db:g} dB" in noisy.source
