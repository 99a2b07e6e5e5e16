"""Order, duplicates, overlaps, gaps: whatever the network does, samples come out once and in order."""

from __future__ import annotations

import itertools
from collections import deque

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge.signal.invalid import INVALID, MISSING
from edge.stream.assembler import Assembler, AssemblerLimits
from edge.stream.runs import Reset, Run
from edge.stream.wire import MAX_INDEX, MAX_TIME_NS, Chunk, Flags

RATE_HZ = 100
SECOND_NS = 1_000_000_000
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
    assert (bridged.invalid == MISSING).all()
    assert len(bridged.samples_mv) == 50
    assert np.allclose(bridged.samples_mv[:, 0], np.arange(101, 151))  # a straight line to the next sample
    assert after.reset is None
    assert values([after]) == SIGNAL[150:200, 0].tolist()
    assert assembler.push(chunk(100, 150), 1.6) == []  # too late: counted, not replayed
    assert assembler.counters.bridged_gaps == 1
    assert assembler.counters.duplicates == 1


def untimed(second: int) -> Chunk:
    return chunk(100 * second, 100 * second + 100, samples=SIGNAL[:100])


def test_after_a_far_jump_that_was_one_bad_index_the_stream_goes_on_where_it_stood():
    assembler = Assembler()
    runs = assembler.push(untimed(0), 0.0) + assembler.push(untimed(500), 1.0)
    runs += assembler.poll(1.6) + assembler.push(untimed(1), 2.0) + assembler.push(untimed(2), 3.0)
    assert [(run.index, run.reset) for run in runs] == [
        (0, Reset.START), (50_000, Reset.GAP), (100, Reset.REWIND), (200, None),
    ]  # fmt: skip


def test_what_was_stored_in_a_long_dropout_does_not_take_a_live_stream_back_again_and_again():
    assembler, resets = Assembler(), []
    runs = [run for second in range(60) for run in assembler.push(untimed(second), float(second))]
    for second in range(150, 240):  # a stored chunk between any two live ones, none with a time
        runs = assembler.push(untimed(second), second + 0.0) + assembler.poll(second + 0.6)
        runs += assembler.push(untimed(second - 90), second + 0.6) + assembler.poll(second + 0.9)
        resets += [run.reset for run in runs if run.reset is not None]
    assert resets == [Reset.GAP, Reset.REWIND, Reset.GAP]
    assert assembler.position.expected == 24_000


def test_one_late_chunk_of_a_dropout_long_ago_moves_nothing():
    assembler = Assembler()
    assembler.push(untimed(0), 0.0)
    for second in range(100, 110):
        assembler.push(untimed(second), float(second))
        assembler.poll(second + 0.6)
    assert assembler.push(untimed(30), 200.0) == []
    (run,) = assembler.push(untimed(110), 201.0)
    assert run.reset is None


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


def test_a_new_session_starts_afresh_and_what_is_late_of_the_old_one_is_left_out():
    assembler = Assembler()
    assembler.push(chunk(0, 100), 0.0)
    (run,) = assembler.push(chunk(0, 50, session="s2"), 0.1)
    assert run.reset is Reset.SESSION
    assert assembler.push(chunk(100, 200), 0.2) == []
    assert assembler.counters.stale == 1
    assert assembler.ignores


def live(session: str, first: int, from_s: float, seconds: int, **fields) -> list[tuple[Chunk, float]]:
    """Chunks of a second, in time, each with when it arrives."""
    return [(chunk(first + 100 * k, first + 100 * k + 100, session, **fields), from_s + k) for k in range(seconds)]


def pushed(assembler: Assembler, arriving: list[tuple[Chunk, float]]) -> list[Run]:
    return [run for c, now_s in arriving for run in [*assembler.poll(now_s), *assembler.push(c, now_s)]]


def test_one_stray_chunk_of_another_session_blinds_the_monitor_for_seconds_only():
    assembler = Assembler()
    pushed(assembler, live("s1", 0, 0.0, 10))
    pushed(assembler, live("s2", 0, 9.5, 1))
    runs = pushed(assembler, live("s1", 1000, 10.0, 20))
    assert [run.reset for run in runs if run.reset] == [Reset.SESSION]
    assert runs[0].index == 1500
    assert runs[-1].end == 3000
    assert not assembler.ignores
    assert assembler.push(chunk(100, 200, "s2"), 31.0) == []  # now that one has ended


def test_a_device_that_restarts_its_index_without_a_time_is_followed_before_long():
    assembler = Assembler()
    pushed(assembler, live("s1", 5000, 0.0, 30))
    runs = pushed(assembler, live("s1", 0, 40.0, 20))
    assert [run.reset for run in runs if run.reset] == [Reset.REWIND]
    assert (runs[0].index, runs[-1].end) == (500, 2000)


def test_a_copy_before_a_device_begins_again_does_not_hide_that_it_does():
    assembler = Assembler()
    pushed(assembler, live("s1", 5000, 0.0, 30))
    copies = [(chunk(7900, 8000), 30.5), (chunk(7800, 7900), 30.6)]
    runs = pushed(assembler, [*copies, *live("s1", 0, 40.0, 20)])
    assert [run.reset for run in runs if run.reset] == [Reset.REWIND]
    assert (runs[0].index, runs[-1].end) == (500, 2000)


def stamped(arriving: list[tuple[Chunk, float]], from_s: int) -> list[tuple[Chunk, float]]:
    return [
        (chunk(c.index, c.end, c.session, time_ns=(from_s + c.index // 100) * SECOND_NS), now_s)
        for c, now_s in arriving
    ]


def test_a_lagging_copy_of_an_ended_session_does_not_displace_the_live_one():
    assembler = Assembler()
    pushed(assembler, stamped(live("a", 0, 0.0, 60), 1000))
    pushed(assembler, stamped(live("b", 0, 60.0, 2), 1060))
    late = stamped(live("a", 2000, 62.0, 40), 1000)  # at a live stream's pace, forty seconds old
    assert pushed(assembler, late) == []
    runs = pushed(assembler, stamped(live("b", 4200, 102.0, 5), 1060))
    assert [run.reset for run in [*runs, *assembler.poll(200.0)] if run.reset] == [Reset.GAP]


def test_a_session_whose_clock_was_wrong_is_followed_all_the_same_if_later():
    assembler = Assembler()
    pushed(assembler, stamped(live("s1", 0, 0.0, 10), 1000))
    pushed(assembler, stamped(live("s2", 0, 10.0, 1), 9_000_000))
    runs = pushed(assembler, stamped(live("s1", 1000, 11.0, 80), 1000))
    assert [run.reset for run in runs if run.reset] == [Reset.SESSION]
    assert runs[0].index == 1000 + 6000


def test_a_replay_of_what_was_is_no_stream_however_long_it_goes_on():
    assembler = Assembler()
    pushed(assembler, stamped(live("s1", 0, 0.0, 95), 1000))
    assert pushed(assembler, stamped(live("s1", 0, 100.0, 90), 1000)) == []


@pytest.mark.parametrize(
    "arriving",
    [
        pytest.param([(chunk(2900, 3000), 30.0 + k) for k in range(60)], id="the last one, over and over"),
        pytest.param([(chunk(100 * k, 100 * k + 100), 30.0 + k / 5) for k in range(30)], id="a buffer, quickly"),
        pytest.param([(chunk(20 * k, 20 * k + 20), 30.0 + k) for k in range(60)], id="a buffer, slowly"),
        pytest.param(
            [(chunk(100 * k, 100 * k + 100, f"old{k % 2}"), 30.0 + k) for k in range(20)], id="two ended sessions"
        ),
    ],
)
def test_what_a_device_repeats_is_no_stream(arriving):
    assembler = Assembler(past_sessions=deque(["old0", "old1"]))
    pushed(assembler, live("s1", 0, 0.0, 30))
    assert pushed(assembler, arriving) == []
    assert assembler.ignores


def test_a_device_that_restarts_its_index_with_a_later_time_is_followed():
    assembler = Assembler()
    assembler.push(chunk(5000, 5100, time_ns=100 * SECOND_NS), 0.0)
    assert assembler.push(chunk(5000, 5100, time_ns=100 * SECOND_NS), 0.1) == []
    (run,) = assembler.push(chunk(0, 100, time_ns=101 * SECOND_NS), 0.2)
    assert run.reset is Reset.REWIND


def test_a_copy_with_its_own_time_is_a_copy_even_if_the_chunk_before_it_had_an_earlier_one():
    assembler = Assembler()
    assembler.push(chunk(0, 100, time_ns=100 * SECOND_NS), 0.0)
    assert assembler.push(chunk(50, 100, time_ns=100 * SECOND_NS + SECOND_NS // 2), 0.1) == []
    assert assembler.counters.duplicates == 1


def test_what_was_kept_during_an_outage_and_comes_between_new_chunks_does_not_turn_the_stream_back():
    assembler = Assembler()
    stamped = [c for c, _ in live("s1", 0, 0.0, 100)]
    stamped = [chunk(c.index, c.end, time_ns=(1000 + c.index // 100) * SECOND_NS) for c in stamped]
    arriving = [(c, float(k)) for k, c in enumerate(stamped[:10])]
    for k in range(15):  # seconds 10 to 84 were not sent; 85 on are live, and one of the others comes after each
        arriving += [(stamped[85 + k], 85.0 + k), (stamped[10 + k], 85.5 + k)]
    runs = pushed(assembler, arriving) + assembler.poll(200.0)
    assert [run.reset for run in runs if run.reset] == [Reset.START, Reset.GAP]
    assert runs[-1].end == 10_000
    assert assembler.counters.duplicates > 10


def test_a_changed_gain_within_a_session_starts_afresh():
    assembler = Assembler()
    assembler.push(chunk(0, 100), 0.0)
    changed = Chunk("s1", 1, 100, None, RATE_HZ, LEADS, SIGNAL[100:200], gain=2.0)
    (run,) = assembler.push(changed, 0.1)
    assert run.reset is Reset.LAYOUT
    assert assembler.push(chunk(50, 100), 0.2) == []  # late, of the gain before


def test_invalid_samples_hold_the_last_good_value():
    samples = SIGNAL[:6].copy()
    samples[2:4, 0] = -32768
    (run,) = Assembler().push(chunk(0, 6, samples=samples), 0.0)
    assert run.samples_mv[:, 0].tolist() == [1, 2, 2, 2, 5, 6]
    assert run.invalid[:, 0].tolist() == [0, 0, INVALID, INVALID, 0, 0]
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
    assert (run.invalid[:, 1] == INVALID).all()
    assert not run.invalid[:, 0].any()


def test_only_the_return_of_a_lead_that_is_wanted_starts_afresh():
    samples = SIGNAL[:1000].copy()
    samples[200:600, 1] = -32768
    for wanted, restarts in ((("I",), []), (("II",), [600]), ((), [600])):
        runs = Assembler(wanted=wanted).push(chunk(0, 1000, samples=samples), 0.0)
        assert [run.index for run in runs if run.reset is Reset.LEAD_RECOVERY] == restarts


@given(seconds=st.floats(0.01, 3.0))
def test_a_lead_that_is_not_there_at_the_start_starts_the_stream_afresh_when_it_comes(seconds):
    away = round(seconds * RATE_HZ)
    samples = SIGNAL[:400].copy()
    samples[:away, 1] = -32768
    first, then = Assembler().push(chunk(0, 400, samples=samples), 0.0)
    assert (first.reset, then.reset, then.index) == (Reset.START, Reset.LEAD_RECOVERY, away)


def test_a_gap_is_told_as_one_though_a_lead_was_off_before_it():
    assembler = Assembler()
    assembler.push(chunk(0, 100), 0.0)
    assembler.push(chunk(100, 400, flags=Flags(lead_off=0b10)), 0.0)
    assembler.push(chunk(900, 1000), 0.0)
    (run,) = assembler.poll(1.0)
    assert run.reset is Reset.GAP
    assert assembler.counters.resets == 2


@pytest.mark.parametrize(("missing", "reset"), [(160, None), (161, Reset.LEAD_RECOVERY)])
def test_a_lead_that_is_off_on_both_sides_of_a_hole_was_off_in_it(missing, reset):
    assembler = Assembler(AssemblerLimits(gap_bridge_s=2.0))
    assembler.push(chunk(0, 100), 0.0)
    assembler.push(chunk(100, 120, flags=Flags(lead_off=0b10)), 0.0)
    behind = 120 + missing
    assembler.push(chunk(behind, behind + 20, flags=Flags(lead_off=0b10)), 0.0)
    assembler.poll(1.0)
    (run,) = assembler.push(chunk(behind + 20, behind + 100), 1.0)
    assert run.reset is reset


def test_a_hole_is_bridged_to_nothing_that_a_lead_says_while_it_is_off():
    railed = SIGNAL[100:200].copy()
    railed[:, 1] = 32767
    assembler = Assembler()
    assembler.push(chunk(0, 50), 0.0)
    assembler.push(chunk(100, 200, samples=railed, flags=Flags(lead_off=0b10)), 0.0)
    bridged, after = assembler.poll(1.0)
    assert np.unique(np.vstack([bridged.samples_mv, after.samples_mv])[:, 1]).tolist() == [SIGNAL[49, 1]]


def test_a_hole_is_waited_for_from_when_it_shows_however_many_there_are():
    assembler = Assembler(AssemblerLimits(reorder_wait_s=0.5))
    came, delays = {}, []
    for k in range(1000):
        now_s = k * 0.04
        for run in assembler.poll(now_s):
            delays += [now_s - came[i] for i in range(run.index, run.end, 4) if i in came]
        if k % 7 and k % 11:
            came[4 * k] = now_s
            delays += [now_s - came[run.index] for run in assembler.push(chunk(4 * k, 4 * k + 4), now_s)]
    assert max(delays) <= 0.5 + 0.041


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


def test_memory_stays_bounded_however_long_the_chunks_that_wait():
    minute = np.zeros((6000, 2), dtype=np.int16)
    assembler = Assembler()
    assembler.push(chunk(0, 10), 0.0)
    for k in range(1, 60):
        assembler.push(chunk(10_000 * k, 10_000 * k + 6000, samples=minute), 0.0)
    assert sum(len(held.samples) for held in assembler.held) <= 120 * RATE_HZ
