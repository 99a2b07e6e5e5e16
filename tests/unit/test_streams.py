"""Streams made of records: one signal through the device's path, the same for every way of playing it."""

from __future__ import annotations

from itertools import pairwise

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edge.errors import BundleError
from edge.monitor.offline import hops_of, score_recordings
from edge.runtime.bundle import Bundle
from edge.runtime.manifest import StateMonitor, StateRange
from edge.runtime.select import open_runtime
from edge.signal.leads import STANDARD_LEADS
from tests.tiny_bundle import tiny_bundle, tiny_manifest
from tests.tiny_ptbxl import rows_of, write_ptbxl
from trainer.data import records_mv
from trainer.ptbxl import CLASSES, open_ptbxl
from trainer.streams import traces
from trainer.streams.plan import (
    HALVES,
    RESTLESS,
    STEADY,
    SWITCHES,
    PlanSettings,
    patient_halves,
    plan_streams,
)
from trainer.streams.play import RECORD_S, Tape, hops_per_record, play_all
from trainer.streams.warm import pasts, random_playlists, score_after, score_cold, strangers

CODES = ["NORM", "IMI", "NDT", "LAFB", "LVH"]
ONE, TWO, THREE = (STANDARD_LEADS.index(lead) for lead in ("I", "II", "III"))


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """Fold 9 with six patients of each class, one record each, at levels of their own."""
    folder = tmp_path_factory.mktemp("data")
    return open_ptbxl(write_ptbxl(folder / "ptb-xl", rows_of(CODES * 6, [9])), folder / "cache")


@pytest.fixture(scope="module", params=[0, 2], ids=["one-vote", "votes-of-two-hops"])
def runtime(request, tmp_path_factory):
    return open_runtime(tiny_bundle(tmp_path_factory.mktemp("bundles") / "tiny", vote_hops=request.param))


def drifting_records(count=4, seed=0):
    """Records whose limb leads obey Einthoven's law, each with levels and a drift of its own."""
    rng = np.random.default_rng(seed)
    noise = rng.normal(0, 0.2, (count, 1000, 12)) + np.linspace(0, 1, 1000)[:, None] * rng.normal(0, 1, (count, 1, 12))
    records = noise + rng.normal(0, 2, (count, 1, 12))
    records[..., THREE] = records[..., TWO] - records[..., ONE]
    return records


def raw_of(tape, records):
    return [np.concatenate([hop.raw_mv for hop in tape.play(record)]) for record in records]


def test_matched_joins_have_no_step_and_change_nothing_else_of_a_record():
    records = drifting_records()
    played = raw_of(Tape(tiny_manifest()), records)
    for before, after in pairwise(played):
        np.testing.assert_allclose(after[:100].mean(axis=0), before[-100:].mean(axis=0), atol=1e-9)
    for raw_mv, record in zip(played, records, strict=True):
        assert np.ptp(raw_mv - record, axis=0).max() < 1e-9
        np.testing.assert_allclose(raw_mv[:, ONE] + raw_mv[:, THREE], raw_mv[:, TWO], atol=1e-9)


def test_hard_joins_leave_records_as_they_are():
    records = drifting_records()
    np.testing.assert_array_equal(np.stack(raw_of(Tape(tiny_manifest(), "hard"), records)), records)


def test_the_first_record_is_a_cold_start_and_no_later_one_is():
    tape, record = Tape(tiny_manifest()), drifting_records(1)[0]
    first, second = tape.play(record), tape.play(record)
    cold = hops_of(tiny_manifest(), record, 100, STANDARD_LEADS)
    assert [hop.reset for hop in [*first, *second]] == [cold[0].reset, *[None] * 19]
    for hop, expected in zip(first, cold, strict=True):
        np.testing.assert_array_equal(hop.frames, expected.frames)


@given(st.integers(0, 2))
@settings(max_examples=3)
def test_a_forked_stream_goes_on_as_the_one_it_was_made_from(length):
    records = drifting_records()
    tape = Tape(tiny_manifest())
    raw_of(tape, records[:length])
    fork = tape.fork()
    for hop, same in zip(tape.play(records[3]), fork.play(records[3]), strict=True):
        np.testing.assert_array_equal(hop.frames, same.frames)
        assert (hop.last_index, hop.reset) == (same.last_index, same.reset)


def test_streams_played_together_score_as_each_recording_does_alone(data, runtime):
    playlists = [np.array([0, 5, 9]), np.array([7]), np.array([3, 3])]
    together = play_all(runtime, data, playlists, "hard")
    for rows, said in zip(playlists, together, strict=True):
        (alone,) = score_recordings(runtime, [records_mv(data, rows).reshape(-1, 12)], 100)
        np.testing.assert_allclose(said.logits[0], [score.logits for score in alone], atol=1e-5)
        np.testing.assert_array_equal(said.ready[0], [score.ready for score in alone])


def test_a_record_after_minutes_of_others_scores_as_in_one_stream_with_them(data, runtime):
    rows = np.arange(12)
    playlists = random_playlists(rows, 3, 1.0, seed=5)
    chosen = np.array([0, 2, 1, 2])
    (past,) = pasts(runtime, data, playlists, [1.0], "matched")
    after = score_after(runtime, data, rows[:4], past, chosen)
    for k, stream in enumerate(chosen):
        (whole,) = play_all(runtime, data, [np.append(playlists[stream], rows[k])], "matched")
        np.testing.assert_allclose(after.logits[k], whole.logits[0, -10:], atol=1e-5)
    assert after.ready.all()
    cold = score_cold(runtime, data, rows[:4], "matched")
    assert np.abs(after.logits[:, -1] - cold.logits[:, -1]).max() > 1e-5  # the past is felt
    assert cold.ready.sum() == 4  # only the last hop of a cold record has a whole window


def test_streams_are_held_at_every_time_asked_for_and_go_on_undisturbed(data, runtime):
    playlists = random_playlists(np.arange(10), 2, 1.0, seed=1)
    held = {past.minutes: past for past in pasts(runtime, data, playlists, [0.5, 1.0], "matched")}
    (alone,) = pasts(runtime, data, playlists, [1.0], "matched")
    assert list(held) == [0.5, 1.0]
    assert held[0.5].hops_seen == [30, 30]
    for state, expected in zip(held[1.0].states, alone.states, strict=True):
        assert all(np.array_equal(state[name], expected[name]) for name in expected)


def test_no_record_follows_its_own_patient(data):
    rows = np.arange(len(data.labels))
    playlists = random_playlists(rows, 8, 1.0, seed=0)
    chosen = strangers(data, rows, playlists, seed=0)
    assert all(data.patient_ids[row] not in data.patient_ids[playlists[k]] for row, k in zip(rows, chosen, strict=True))


def test_records_must_end_at_hop_edges():
    manifest = tiny_manifest(hop_s=1.2, window_s=12.0)
    with pytest.raises(BundleError, match="divide 10 s"):
        hops_per_record(Bundle(None, manifest))
    assert hops_per_record(Bundle(None, tiny_manifest())) == 10


def test_every_stream_holds_one_half_of_the_patients_and_every_illness_its_episode(data):
    plan_settings = PlanSettings(stream_s=120, patient_s=20, passes=3)
    plans = plan_streams(data, data.rows([9]), plan_settings)
    patients = [{int(data.patient_ids[row]) for p in plans if p.half == half for row in p.rows} for half in HALVES]
    assert patients[0].isdisjoint(patients[1])
    names = np.array(CLASSES)[data.labels.argmax(axis=1)]
    by_kind = {kind: [p for p in plans if p.kind == kind] for kind in (RESTLESS, STEADY, SWITCHES)}
    assert sum(len(plan.rows) for plan in by_kind[RESTLESS]) == 3 * 6
    assert sum(len(plan.rows) for plan in by_kind[STEADY]) * RECORD_S == 6 * 20
    assert all((names[p.rows] == "NORM").all() for kind in (RESTLESS, STEADY) for p in by_kind[kind])
    for plan in by_kind[SWITCHES]:
        for episode in plan.episodes:
            shown = names[plan.rows[episode.turn - 2 : episode.turn + 2]]
            assert list(shown) == ["NORM", "NORM", episode.class_name, episode.class_name]
            assert len({*plan.rows[episode.turn : episode.turn + 2]}) == 1
    episodes = [episode.class_name for plan in by_kind[SWITCHES] for episode in plan.episodes]
    assert sorted(episodes) == sorted(6 * ["MI", "STTC", "CD", "HYP"])


def test_a_seed_gives_the_same_streams_and_another_others(data):
    def played(seed):
        return [plan.rows.tolist() for plan in plan_streams(data, data.rows([9]), PlanSettings(seed=seed))]

    assert played(1) == played(1)
    assert played(1) != played(2)


@given(st.lists(st.tuples(st.integers(0, 12), st.integers(0, 4)), min_size=2, max_size=40), st.integers(0, 9))
def test_halves_keep_patients_whole_and_classes_even(records, seed):
    patients, shown = (np.array(column) for column in zip(*records, strict=True))
    half = patient_halves(patients, shown, np.random.default_rng(seed))
    first = {patient: k for k, patient in reversed(list(enumerate(patients)))}
    assert all(half[k] == half[first[patient]] for k, patient in enumerate(patients))
    for name in set(shown):
        of_class = [half[k] for patient, k in first.items() if shown[k] == name]
        assert abs(of_class.count(0) - of_class.count(1)) <= 1


def test_without_healthy_records_there_are_no_streams(tmp_path):
    root = write_ptbxl(tmp_path / "ptb-xl", rows_of(["IMI", "LVH"] * 3, [9]))
    data = open_ptbxl(root, tmp_path / "cache")
    assert plan_streams(data, data.rows([9]), PlanSettings()) == []


SHORT = PlanSettings(stream_s=120, patient_s=20, passes=1)


@pytest.fixture
def scored(data, tmp_path, monkeypatch):
    """Score streams with a cache of their own; return the logits, and how often streams were played so far."""
    played = []
    monkeypatch.setenv("ECG_EDGE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(traces, "play_all", lambda *given: (played.append(given), play_all(*given))[1])

    def score(bundle, rows=slice(None), plan=SHORT, joins="matched", runtime="native"):
        streams = traces.score_streams(open_runtime(bundle, runtime), data, data.rows([9])[rows], plan, joins)
        return np.concatenate([trace.logits for trace in streams.traces]), len(played)

    return score


def changed(bundle, **manifest):
    return Bundle(bundle.path, msgspec.structs.replace(bundle.manifest, **manifest))


def shifted(signal):
    return msgspec.structs.replace(signal, mean_mv=[1.0] * 12)


def watching(bundle):
    return StateMonitor({bundle.manifest.state[0].name: StateRange(1.0, 2.0, 3.0, 4.0, 5.0)})


def test_scores_of_streams_are_kept_whatever_is_made_of_them_later(scored, tmp_path):
    bundle = tiny_bundle(tmp_path / "tiny")
    logits, _ = scored(bundle)
    calibration = msgspec.structs.replace(bundle.manifest.calibration, scale=[2.0] * 5)
    same, played = scored(changed(bundle, calibration=calibration, version="0.2"))
    np.testing.assert_array_equal(same, logits)
    assert played == 1


@pytest.mark.parametrize(
    "other",
    [
        lambda bundle: {"bundle": changed(bundle, signal=shifted(bundle.manifest.signal))},
        lambda bundle: {"bundle": changed(bundle, leads=bundle.manifest.leads[::-1])},
        lambda bundle: {"bundle": changed(bundle, state_monitor=watching(bundle))},
        lambda bundle: {"bundle": tiny_bundle(bundle.path.with_name("other"), seed=1)},
        lambda bundle: {"bundle": bundle, "rows": slice(5, None)},
        lambda bundle: {"bundle": bundle, "plan": PlanSettings(stream_s=120, patient_s=20, passes=2)},
        lambda bundle: {"bundle": bundle, "joins": "hard"},
        lambda bundle: {"bundle": bundle, "runtime": "onnxruntime"},
    ],
    ids=["normalisation", "leads", "state-monitor", "weights", "records", "plan", "joins", "runtime"],
)  # fmt: skip
def test_scores_of_other_streams_are_not_taken_for_these(other, scored, tmp_path):
    bundle = tiny_bundle(tmp_path / "tiny")
    scored(bundle)
    assert scored(**other(bundle))[1] == 2
