"""The engine without a broker: chunking, carried state and snapshots change no bit of a score."""

from __future__ import annotations

import itertools
from pathlib import Path

import numpy as np
import pytest
import torch
import wfdb
from hypothesis import given, settings
from hypothesis import strategies as st

from edge.errors import LeadsError, SignalError
from edge.monitor.engine import ModelStream, score_hops
from edge.monitor.offline import hops_of, score_recordings
from edge.monitor.path import Hop, StreamPath
from edge.runtime.base import Float32Array
from edge.runtime.bundle import load_bundle
from edge.signal.frontend import process_records
from edge.signal.leads import STANDARD_LEADS
from edge.stream.runs import Reset, Run
from tests.ecg import millivolts, patient
from tests.reference import shipped_runtime
from trainer.checkpoint import model_from_bundle
from trainer.votes import logits_after

MANIFEST = load_bundle().manifest
SECONDS = 12
SIGNALS = {rate_hz: millivolts(patient(SECONDS, rate_hz, seed=11)) for rate_hz in (100, 250, 257, 360, 500)}
REAL_RECORDS = ("00001", "00002", "00003", "00004", "00005", "00006")

both_rates = pytest.mark.parametrize("rate_hz", [100, 500])


def runs_of(samples_mv, edges):
    """Cut samples at the edges into runs, the first of which starts the stream."""
    bounds = [0, *sorted(set(edges)), len(samples_mv)]
    for begin, end in itertools.pairwise(bounds):
        part = samples_mv[begin:end]
        yield Run(begin, part, np.zeros(part.shape, dtype=bool), None if begin else Reset.START)


def score(hops, stream=None):
    """Score hops one by one; return logits (hops, classes)."""
    runtime = shipped_runtime()
    stream = stream or ModelStream(runtime.open_slot())
    logits = [score_hops(runtime, [stream], [hop])[0].logits for hop in hops]
    runtime.close_slot(stream.slot)
    return np.array(logits)


def edges_within(rate_hz):
    return st.lists(st.integers(1, SECONDS * rate_hz - 1), max_size=20)


@pytest.mark.parametrize("rate_hz", SIGNALS)
@given(data=st.data())
@settings(max_examples=10, deadline=None)
def test_any_chunking_gives_the_same_bits(rate_hz, data):
    samples_mv = SIGNALS[rate_hz]
    path = StreamPath(MANIFEST, rate_hz, STANDARD_LEADS)
    hops = [hop for run in runs_of(samples_mv, data.draw(edges_within(rate_hz))) for hop in path.push(run)]
    whole = hops_of(MANIFEST, samples_mv, rate_hz, STANDARD_LEADS)
    assert [hop.last_index for hop in hops] == [hop.last_index for hop in whole]
    assert all(np.array_equal(a.frames, b.frames) for a, b in zip(hops, whole, strict=True))
    assert np.array_equal(score(hops), score(whole))


@both_rates
@given(data=st.data())
@settings(max_examples=5, deadline=None)
def test_any_chunking_of_real_ecg_gives_the_same_bits(ptbxl_root, rate_hz, data):
    samples_mv = real_record(ptbxl_root, data.draw(st.sampled_from(REAL_RECORDS)), rate_hz)
    path = StreamPath(MANIFEST, rate_hz, STANDARD_LEADS)
    edges = data.draw(st.lists(st.integers(1, len(samples_mv) - 1), max_size=20))
    hops = [hop for run in runs_of(samples_mv, edges) for hop in path.push(run)]
    (whole,) = score_recordings(shipped_runtime(), [samples_mv], rate_hz)
    assert np.array_equal(score(hops), [found.logits for found in whole])


@pytest.mark.parametrize("record", REAL_RECORDS)
def test_the_score_at_ten_seconds_is_the_trainers_forward_pass(ptbxl_root: Path, record: str) -> None:
    assert_equals_forward(real_record(ptbxl_root, record, 100))


def test_the_score_of_a_schematic_patient_is_the_trainers_forward_pass():
    assert_equals_forward(millivolts(patient(10, seed=12)))


def test_recordings_scored_together_are_scored_as_if_alone():
    recordings = [millivolts(patient(seconds, seed=seconds)) for seconds in (3, 12, 7)]
    together = score_recordings(shipped_runtime(), recordings, 100)
    assert [len(scores) for scores in together] == [3, 12, 7]
    for recording, scores in zip(recordings, together, strict=True):
        (alone,) = score_recordings(shipped_runtime(), [recording], 100)
        assert [found.last_index for found in scores] == [found.last_index for found in alone]
        assert np.allclose([s.logits for s in scores], [s.logits for s in alone], atol=1e-5)
        assert [s.ready for s in scores] == [s.ready for s in alone]


def test_a_stream_is_ready_when_a_window_is_full_and_warms_again_after_a_reset():
    runtime = shipped_runtime()
    stream = ModelStream(runtime.open_slot())
    hops = hops_of(MANIFEST, SIGNALS[100], 100, STANDARD_LEADS)
    ready = [score_hops(runtime, [stream], [hop])[0].ready for hop in [*hops, *hops]]
    runtime.close_slot(stream.slot)
    window = MANIFEST.window_hops
    expected = [False] * (window - 1) + [True] * (len(hops) - window + 1)
    assert ready == expected * 2  # the second recording begins with a reset


def test_a_reset_leaves_nothing_of_what_came_before():
    first, second = SIGNALS[100], millivolts(patient(SECONDS, seed=13))
    path = StreamPath(MANIFEST, 100, STANDARD_LEADS)
    path.push(Run(0, first[:350], np.zeros((350, 12), dtype=bool), Reset.START))
    hops = path.push(Run(5000, second, np.zeros(second.shape, dtype=bool), Reset.SESSION))
    assert [hop.reset for hop in hops] == [Reset.SESSION] + [None] * (len(hops) - 1)
    assert [hop.last_index for hop in hops] == list(range(5099, 5000 + 100 * SECONDS, 100))
    assert np.array_equal(score(hops), score(hops_of(MANIFEST, second, 100, STANDARD_LEADS)))


@both_rates
@given(data=st.data())
@settings(max_examples=8, deadline=None)
def test_a_path_restored_anywhere_goes_on_bit_for_bit(rate_hz, data):
    samples_mv = SIGNALS[rate_hz]
    at = data.draw(st.integers(1, len(samples_mv) - 1))
    before, after = runs_of(samples_mv, [at])
    original = StreamPath(MANIFEST, rate_hz, STANDARD_LEADS)
    original.push(before)
    restored = StreamPath(MANIFEST, rate_hz, STANDARD_LEADS)
    restored.load({name: array.copy() for name, array in original.save().items()})
    for hop, wanted in zip(restored.push(after), original.push(after), strict=True):
        assert_same_hop(hop, wanted)


def test_a_reset_that_waits_for_its_first_hop_survives_a_snapshot():
    original = StreamPath(MANIFEST, 100, STANDARD_LEADS)
    original.push(Run(0, SIGNALS[100][:400], np.zeros((400, 12), dtype=bool), Reset.START))
    original.push(Run(900, SIGNALS[100][:40], np.zeros((40, 12), dtype=bool), Reset.GAP))
    restored = StreamPath(MANIFEST, 100, STANDARD_LEADS)
    restored.load(original.save())
    (hop,) = restored.push(Run(940, SIGNALS[100][40:100], np.zeros((60, 12), dtype=bool)))
    assert hop.reset is Reset.GAP


def test_invalid_samples_go_with_the_hop_they_belong_to_at_any_rate():
    invalid = np.zeros((1500, 12), dtype=bool)
    invalid[700, 3] = True  # at 500 Hz: within the second hop
    path = StreamPath(MANIFEST, 500, STANDARD_LEADS)
    hops = path.push(Run(0, SIGNALS[500][:1500], invalid, Reset.START))
    assert [bool(hop.invalid.any()) for hop in hops] == [False, True, False]
    assert [hop.last_index for hop in hops] == [495, 995, 1495]


def test_leads_in_another_order_and_case_are_found():
    order = [STANDARD_LEADS.index(name) for name in reversed(STANDARD_LEADS)]
    names = tuple(name.upper() for name in reversed(STANDARD_LEADS))
    shuffled = hops_of(MANIFEST, SIGNALS[100][:, order], 100, names)
    assert np.array_equal(score(shuffled), score(hops_of(MANIFEST, SIGNALS[100], 100, STANDARD_LEADS)))


def test_leads_that_are_missing_and_rates_that_are_unknown_are_refused():
    with pytest.raises(LeadsError, match="V6"):
        StreamPath(MANIFEST, 100, STANDARD_LEADS[:11])
    with pytest.raises(SignalError):
        StreamPath(MANIFEST, 101, STANDARD_LEADS)


def test_an_output_that_is_no_number_is_unhealthy_and_ends_with_a_fresh_state():
    runtime = shipped_runtime()
    stream = ModelStream(runtime.open_slot())
    hops = hops_of(MANIFEST, SIGNALS[100], 100, STANDARD_LEADS)
    broken = Hop(np.full_like(hops[0].frames, np.nan), hops[0].raw_mv, hops[0].invalid, 99, None)
    (bad,) = score_hops(runtime, [stream], [broken])
    assert (bad.healthy, bad.ready, stream.hops_seen) == (False, False, 0)
    after = [score_hops(runtime, [stream], [hop])[0] for hop in hops[1:]]
    fresh = ModelStream(runtime.open_slot())
    wanted = [score_hops(runtime, [fresh], [hop])[0] for hop in hops[1:]]
    assert all(found.healthy for found in after)
    assert np.array_equal([found.logits for found in after], [found.logits for found in wanted])
    for slot in (stream.slot, fresh.slot):
        runtime.close_slot(slot)


def assert_equals_forward(samples_mv):
    """Hold the streaming score at second ten against the batch forward pass of the trainer's own model."""
    (scores,) = score_recordings(shipped_runtime(), [samples_mv], 100)
    frames: Float32Array = process_records(MANIFEST.frontend(), samples_mv[None])
    with torch.inference_mode():
        model = model_from_bundle(load_bundle())
        logits = logits_after(model, torch.from_numpy(frames), model.initial_state(1))
    assert scores[-1].last_index == 999
    assert np.abs(scores[-1].logits - logits[0].numpy()).max() <= 1e-4


def assert_same_hop(hop, wanted):
    assert np.array_equal(hop.frames, wanted.frames)
    assert np.array_equal(hop.raw_mv, wanted.raw_mv)
    assert np.array_equal(hop.invalid, wanted.invalid)
    assert (hop.last_index, hop.reset) == (wanted.last_index, wanted.reset)


def real_record(root: Path, record: str, rate_hz: int):
    """Read a record of PTB-XL in mV."""
    folder, suffix = {100: ("records100", "lr"), 500: ("records500", "hr")}[rate_hz]
    return wfdb.rdrecord(str(root / folder / "00000" / f"{record}_{suffix}")).p_signal
