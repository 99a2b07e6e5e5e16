"""Order, duplicates, overlaps, gaps: whatever the network does, samples come out once and in order."""

from __future__ import annotations

import itertools

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from edge.stream.assembler import Assembler, AssemblerLimits, Reset, Run
from edge.stream.wire import MAX_INDEX, MAX_TIME_NS, Chunk, Flags

RATE_HZ = 100
LEADS = ("I", "II")
SIGNAL = np.arange(1, 10_001, dtype=np.int16)[:, None] + np.array([[0, 10_000]], dtype=np.int16)


def chunk(start, end, session="s1", number=0, time_ns=None, samples=None, flags=Flags()):  # noqa: B008
    taken = SIGNAL[start:end] if samples is None else samples
    return Chunk(session, number, start, time_ns, RATE_HZ, LEADS, taken, gain=1.0, flags=flags)


def values(runs: list[Run]) -> list[float]:
    return [float(v) for run in runs for v in run.samples_mv[:, 0]]


def cut(edges):
    bounds = [0, *sorted(set(edges)), 400]
    return [chunk(a, b, number=n) for n, (a, b) in enumerate(itertools.pairwise(bounds)) if b > a]


@given(edges=st.lists(st.integers(1, 399), max_size=12), data=st.data())
def test_shuffled_duplicated_and_overlapping_chunks_come_out_once_and_in_order(edges, data):
    chunks = cut(edges)
    first, rest = chunks[0], chunks[1:]
    again = data.draw(st.lists(st.sampled_from(chunks), max_size=4))
    wider = [chunk(max(0, c.index - 7), c.end) for c in data.draw(st.lists(st.sampled_from(chunks), max_size=3))]
    arriving = [first, *data.draw(st.permutations([*rest, *again, *wider]))]
    assembler = Assembler()
    runs = [run for c in arriving for run in assembler.push(c, now_s=0.0)]
    assert values(runs) == SIGNAL[:400, 0].tolist()
    assert [run.reset for run in runs] == [Reset.START] + [None] * (len(runs) - 1)
    assert assembler.deadline_s is None


def test_a_late_chunk_is_waited_for_only_so_long():
    assembler = Assembler(AssemblerLimits(gap_bridge_s=2.0, reorder_wait_s=0.5))
    assembler.push(chunk(0, 100), 0.0)
    assert assembler.push(chunk(150, 200), 1.0) == []
    assert assembler.poll(1.49) == []
    bridged, after = assembler.poll(1.5)
    assert bridged.invalid.all()
    assert len(bridged.samples_mv) == 50
    assert np.allclose(bridged.samples_mv[:, 0], np.arange(101, 151))  # a straight line to the next sample
    assert after.reset is None
    assert values([after]) == SIGNAL[150:200, 0].tolist()
    assert assembler.push(chunk(100, 150), 1.6) == []  # too late: counted, not replayed
    assert assembler.counters.bridged_gaps == 1
    assert assembler.counters.duplicates == 1


def test_a_gap_beyond_the_limit_starts_afresh():
    assembler = Assembler(AssemblerLimits(gap_bridge_s=2.0))
    assembler.push(chunk(0, 100), 0.0)
    assembler.push(chunk(301, 400), 0.0)
    (run,) = assembler.poll(9.0)
    assert run.reset is Reset.GAP
    assert run.index == 301
    assert assembler.counters.lost_gaps == 1


def test_one_impossible_index_does_not_stall_the_stream():
    assembler = Assembler()
    assembler.push(chunk(0, 100), 0.0)
    assembler.push(chunk(2**50, 2**50 + 10, samples=SIGNAL[:10]), 0.1)
    assembler.poll(5.0)
    (run,) = assembler.push(chunk(100, 200), 5.1)
    assert run.reset is Reset.REWIND
    assert values([run]) == SIGNAL[100:200, 0].tolist()
    (run,) = assembler.push(chunk(200, 300), 5.2)
    assert run.reset is None


def test_an_impossible_index_is_ignored_while_the_stream_goes_on():
    assembler = Assembler()
    assembler.push(chunk(0, 100), 0.0)
    assembler.push(chunk(2**50, 2**50 + 10, samples=SIGNAL[:10]), 0.1)
    runs = [run for k in range(1, 20) for run in assembler.push(chunk(100 * k, 100 * k + 100), 0.1 + 0.2 * k)]
    assert all(run.reset is None for run in runs)
    assert values(runs) == SIGNAL[100:2000, 0].tolist()


def test_a_new_session_starts_afresh_and_the_old_one_cannot_come_back():
    assembler = Assembler()
    assembler.push(chunk(0, 100), 0.0)
    (run,) = assembler.push(chunk(0, 50, session="s2"), 0.1)
    assert run.reset is Reset.SESSION
    assert assembler.push(chunk(100, 200), 0.2) == []
    assert assembler.counters.stale == 1


def test_a_device_that_restarts_its_index_with_a_later_time_is_followed():
    assembler = Assembler()
    assembler.push(chunk(5000, 5100, time_ns=1_000), 0.0)
    assert assembler.push(chunk(0, 100, time_ns=1_000), 0.1) == []
    (run,) = assembler.push(chunk(100, 200, time_ns=2_000), 0.2)
    assert run.reset is Reset.REWIND


def test_a_changed_gain_within_a_session_starts_afresh():
    assembler = Assembler()
    assembler.push(chunk(0, 100), 0.0)
    changed = Chunk("s1", 1, 100, None, RATE_HZ, LEADS, SIGNAL[100:200], gain=2.0)
    (run,) = assembler.push(changed, 0.1)
    assert run.reset is Reset.LAYOUT


def test_invalid_samples_hold_the_last_good_value():
    samples = SIGNAL[:6].copy()
    samples[2:4, 0] = -32768
    (run,) = Assembler().push(chunk(0, 6, samples=samples), 0.0)
    assert run.samples_mv[:, 0].tolist() == [1, 2, 2, 2, 5, 6]
    assert run.invalid[:, 0].tolist() == [False, False, True, True, False, False]
    assert not np.isnan(run.samples_mv).any()


@given(size=st.integers(1, 300), absence=st.integers(0, 500))
def test_a_lead_that_returns_after_a_long_absence_starts_afresh_at_that_very_sample(size, absence):
    samples = SIGNAL[:1000].copy()
    samples[200 : 200 + absence, 1] = -32768
    assembler = Assembler(AssemblerLimits(gap_bridge_s=2.0))
    runs = [
        run
        for start in range(0, 1000, size)
        for run in assembler.push(chunk(start, min(start + size, 1000), samples=samples[start : start + size]), 0.0)
    ]
    restarts = [run.index for run in runs if run.reset is Reset.LEAD_RECOVERY]
    assert restarts == ([200 + absence] if absence > 200 else [])
    assert sum(len(run.samples_mv) for run in runs) == 1000


def test_the_lead_off_mask_counts_as_invalid():
    (run,) = Assembler().push(chunk(0, 10, flags=Flags(lead_off=0b10)), 0.0)
    assert run.invalid[:, 1].all()
    assert not run.invalid[:, 0].any()


def test_time_follows_the_index():
    assembler = Assembler()
    assembler.push(chunk(0, 100, time_ns=5_000_000_000), 0.0)
    assert assembler.time_ns_of(250) == 7_500_000_000


@given(st.integers(0, MAX_INDEX))
def test_a_time_that_no_clock_will_show_is_not_stated(index):
    assembler = Assembler()
    assembler.push(chunk(0, 100, time_ns=5_000_000_000), 0.0)
    time_ns = assembler.time_ns_of(index)
    assert time_ns is None or time_ns == 5_000_000_000 + index * 10_000_000 <= MAX_TIME_NS
    assert (time_ns is None) == (5_000_000_000 + index * 10_000_000 > MAX_TIME_NS)


def test_memory_stays_bounded_when_the_first_chunk_never_comes():
    assembler = Assembler()
    assembler.push(chunk(0, 10), 0.0)
    for k in range(2, 500):
        assembler.push(chunk(10 * k, 10 * k + 10), 0.0)
    assert len(assembler._pending) <= 64
