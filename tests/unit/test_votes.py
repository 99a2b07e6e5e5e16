"""Windows scored by votes: the mean of what a model says of each run of hops, the same at once and hop by hop."""

from __future__ import annotations

import dataclasses
import itertools
import json
from functools import cache

import msgspec
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from edge.errors import BundleError
from edge.monitor.engine import Fault, ModelStream, score_hops
from edge.monitor.offline import hops_of, score_recordings
from edge.monitor.path import StreamPath
from edge.monitor.votes import MAX_LOGIT, mean_logits, with_vote
from edge.runtime.base import calibrated
from edge.runtime.bundle import load_bundle
from edge.runtime.manifest import MANIFEST_NAME
from edge.runtime.native import NativeRuntime
from edge.runtime.onnx import OnnxRuntime
from edge.runtime.select import open_runtime
from edge.signal.frontend import process_records
from edge.signal.leads import STANDARD_LEADS
from edge.stream.runs import Reset, Run
from export.signals import synthetic_signals
from export.verify import verify
from tests.ecg import millivolts, patient
from tests.tiny_bundle import tiny_bundle, tiny_checkpoint, tiny_manifest
from tests.windowed_bundles import windowed_bundle
from trainer import votes as trainer_votes
from trainer.checkpoint import model_from_bundle
from trainer.data import Split
from trainer.kinds import record_logits
from trainer.model import ModelConfig
from trainer.preset import load_preset
from trainer.pretraining.plans import DEFAULTS
from trainer.pretraining.run import identity_of
from trainer.study import warm_logits

VOTES = 9  # of two seconds each, one a second, in ten seconds
EXACT = 1e-4


@pytest.fixture(scope="module")
def bundle(tmp_path_factory):
    return tiny_bundle(tmp_path_factory.mktemp("bundles") / "votes", vote_hops=2)


@pytest.fixture
def runtime(bundle):
    return open_runtime(bundle)


@cache
def signal_mv(rate_hz=100, seconds=13):
    return millivolts(patient(seconds, rate_hz, seed=7))


def hops(manifest, rate_hz=100):
    return hops_of(manifest, signal_mv(rate_hz), rate_hz, STANDARD_LEADS)


def logit(probability):
    return np.log(probability / (1 - probability))


def play(runtime, stream, given_hops):
    return [score_hops(runtime, [stream], [hop])[0] for hop in given_hops]


def said_of(runtime, given_hops):
    """What the model says hop by hop, before anything is averaged."""
    slot = runtime.open_slot()
    return np.concatenate([runtime.step([slot], hop.frames[None]) for hop in given_hops])


def mean_probability(said):
    return (1 / (1 + np.exp(-said.astype(np.float64)))).mean(axis=0)


@pytest.mark.parametrize("in_torch", [False, True])
def test_votes_of_a_fifth_and_three_fifths_make_two_fifths(in_torch):
    votes = np.array([[logit(0.2), 0.0], [logit(0.6), 0.0]], dtype=np.float32)
    found = trainer_votes.mean_logits(torch.from_numpy(votes[None]))[0].numpy() if in_torch else mean_logits([votes])[0]
    np.testing.assert_allclose(found, [logit(0.4), 0.0], atol=1e-6)


def test_streams_with_different_numbers_of_votes_are_averaged_apart():
    votes = np.random.default_rng(0).normal(0, 3, (12, 5)).astype(np.float32)
    parts = [votes[:1], votes[1:10], votes[10:]]
    found = mean_logits(parts)
    np.testing.assert_allclose(found, [logit(mean_probability(part)) for part in parts], atol=1e-5)
    np.testing.assert_allclose(found[0], votes[0], atol=1e-6)  # one vote is what it says
    alone = trainer_votes.mean_logits(torch.from_numpy(parts[1][None]))[0].numpy()
    np.testing.assert_allclose(found[1], alone, atol=1e-5)


@pytest.mark.parametrize("sure", [60.0, MAX_LOGIT, 1e4])
def test_votes_that_are_certain_stay_so(sure):
    votes = np.full((VOTES, 2), [sure, -sure], dtype=np.float32)
    kept = min(sure, MAX_LOGIT)
    np.testing.assert_allclose(mean_logits([votes]), [[kept, -kept]], rtol=1e-6)
    np.testing.assert_allclose(trainer_votes.mean_logits(torch.from_numpy(votes[None])), [[sure, -sure]], rtol=1e-6)


def test_only_the_last_votes_are_kept():
    votes = None
    for number in range(5):
        votes = with_vote(votes, np.array([number], dtype=np.float32), 3)
    assert votes.tolist() == [[2], [3], [4]]


@pytest.mark.parametrize("vote_hops", [1, 11, -2])
def test_votes_are_of_two_hops_at_least_and_of_a_window_at_most(vote_hops):
    with pytest.raises(ValueError, match=f"vote_hops is {vote_hops}"):
        ModelConfig(vote_hops=vote_hops)


def test_a_manifest_without_votes_is_of_one_vote_over_the_window(bundle, tmp_path):
    plain = tiny_bundle(tmp_path / "plain")
    path = plain.path / MANIFEST_NAME
    described = json.loads(path.read_bytes())
    assert described.pop("vote_hops") == 0
    assert described["model"].pop("vote_hops") == 0
    path.write_text(json.dumps(described))
    old = load_bundle(plain.path).manifest
    assert (old.vote_hops, old.pooled_hops, old.votes) == (0, 10, 1)
    assert (bundle.manifest.vote_hops, bundle.manifest.pooled_hops, bundle.manifest.votes) == (2, 2, VOTES)
    runtime = open_runtime(load_bundle(plain.path))
    stream = ModelStream(runtime.open_slot())
    scores = play(runtime, stream, hops(old))
    assert stream.votes is None
    np.testing.assert_array_equal([score.logits for score in scores], said_of(runtime, hops(old)))


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"vote_hops": 1, "model": {}}, "from 2 to the hops of a window"),
        ({"vote_hops": 11, "model": {}}, "from 2 to the hops of a window"),
        ({"vote_hops": 2}, "not that of the model"),
        ({"vote_hops": 2, "model": {}}, "not that of the model"),
    ],
)
def test_a_manifest_with_votes_that_cannot_be_is_refused(changes, problem):
    assert tiny_manifest().problems() == []
    assert any(problem in line for line in tiny_manifest(**changes).problems())


def test_a_windowed_bundle_has_no_votes(tmp_path):
    windowed = windowed_bundle(tmp_path / "windowed")
    path = windowed.path / MANIFEST_NAME
    path.write_text(json.dumps({**json.loads(path.read_bytes()), "vote_hops": 2}))
    with pytest.raises(BundleError, match="windowed bundle has no vote_hops"):
        load_bundle(windowed.path)


def test_every_score_is_the_mean_of_the_last_nine_votes(bundle, runtime):
    played = hops(bundle.manifest)
    scores, said = play(runtime, ModelStream(runtime.open_slot()), played), said_of(runtime, played)
    for number, score in enumerate(scores, start=1):
        mean = mean_probability(said[max(0, number - VOTES) : number])
        np.testing.assert_allclose(score.logits, logit(mean), atol=1e-5)
        np.testing.assert_array_equal(score.probabilities, calibrated(bundle.manifest.calibration, score.logits))
    assert [score.ready for score in scores] == [False] * 9 + [True] * 4
    assert np.abs(scores[-1].logits - said[-1]).max() > EXACT  # other than the last vote


@given(edges=st.lists(st.integers(1, 1299), max_size=20), rate_hz=st.sampled_from([100, 500]))
@settings(max_examples=10, deadline=None)
def test_any_chunking_ends_at_ten_seconds_where_the_whole_record_does(bundle, edges, rate_hz):
    manifest, runtime = bundle.manifest, open_runtime(bundle)
    samples_mv, scale = signal_mv(rate_hz), rate_hz // 100
    path, scores, stream = StreamPath(manifest, rate_hz, STANDARD_LEADS), [], ModelStream(runtime.open_slot())
    bounds = [0, *sorted({edge * scale for edge in edges}), len(samples_mv)]
    for begin, end in itertools.pairwise(bounds):
        part = samples_mv[begin:end]
        run = Run(begin, part, np.zeros(part.shape, dtype=bool), None if begin else Reset.START)
        scores += play(runtime, stream, path.push(run))
    frames = np.concatenate([hop.frames for hop in hops(manifest, rate_hz)])
    model = model_from_bundle(bundle)
    for count, score in enumerate(scores, start=1):
        np.testing.assert_allclose(
            score.logits, record_logits(model, frames[None, : count * 100], 1000)[0], rtol=0, atol=EXACT
        )
    if rate_hz == 100:
        record = process_records(manifest.frontend(), samples_mv[None, :1000])
        np.testing.assert_allclose(scores[9].logits, record_logits(model, record, 1000)[0], rtol=0, atol=EXACT)


def test_nine_votes_by_hand_are_what_a_whole_record_scores(bundle):
    model = model_from_bundle(bundle)
    x = torch.randn(3, 1000, 12, generator=torch.Generator().manual_seed(1))
    with torch.inference_mode():
        features, _ = model.encode(x, model.initial_state(3))
        votes = [
            torch.sigmoid(model.classify(model.pool_window(features[:, 25 * k : 25 * (k + 2)]))) for k in range(VOTES)
        ]
    mean = torch.stack(votes).mean(0).numpy()
    np.testing.assert_allclose(record_logits(model, x.numpy(), 1000), logit(mean), atol=1e-5)


def test_votes_as_long_as_a_window_change_nothing(tmp_path):
    bundles = tiny_bundle(tmp_path / "plain"), tiny_bundle(tmp_path / "whole", vote_hops=10)
    streamed = [score_recordings(open_runtime(bundle), [signal_mv()], 100)[0] for bundle in bundles]
    np.testing.assert_array_equal(*([score.logits for score in scores] for scores in streamed))
    x = np.random.default_rng(0).standard_normal((2, 1000, 12), dtype=np.float32)
    np.testing.assert_allclose(*(record_logits(model_from_bundle(bundle), x, 1000) for bundle in bundles), atol=1e-6)


def test_a_reset_and_an_output_that_is_no_number_clear_the_votes(bundle, runtime):
    played, stream = hops(bundle.manifest), ModelStream(runtime.open_slot())
    first = play(runtime, stream, played)
    assert stream.votes.shape == (VOTES, 5)
    again = play(runtime, stream, played)  # begins with a reset
    np.testing.assert_array_equal([score.logits for score in first], [score.logits for score in again])
    broken = msgspec.structs.replace(played[1], frames=np.full_like(played[1].frames, np.nan))
    (bad,) = score_hops(runtime, [stream], [broken])
    assert (bad.fault, stream.votes, stream.hops_seen) == (Fault.OUTPUT, None, 0)
    assert not np.isfinite(bad.logits).all()


def test_a_stream_that_breaks_takes_no_vote_from_others(bundle, runtime):
    played = hops(bundle.manifest)
    sick, well, alone = (ModelStream(runtime.open_slot()) for _ in range(3))
    for number, hop in enumerate(played):
        frames = np.full_like(hop.frames, np.nan) if number == 5 else hop.frames
        _, beside = score_hops(runtime, [sick, well], [msgspec.structs.replace(hop, frames=frames), hop])
        (expected,) = score_hops(runtime, [alone], [hop])
        np.testing.assert_allclose(beside.logits, expected.logits, atol=1e-5)
    assert (len(sick.votes), len(well.votes)) == (7, VOTES)


def test_native_and_onnxruntime_score_alike_and_verify_agrees(bundle):
    scores = [
        score_recordings(runtime, [signal_mv(500)], 500)[0] for runtime in (NativeRuntime(bundle), OnnxRuntime(bundle))
    ]
    np.testing.assert_allclose(*([score.logits for score in of] for of in scores), rtol=0, atol=EXACT)
    parity = verify(bundle, synthetic_signals(bundle.manifest, 2, 30.0), "a test")
    assert parity.passed, parity


def test_warm_records_are_scored_by_votes_too(monkeypatch):
    monkeypatch.setattr("trainer.study.WARM_S", 20)
    model = tiny_checkpoint(vote_hops=2).model
    signals = np.random.default_rng(0).standard_normal((3, 1000, 12), dtype=np.float32)
    warm = warm_logits(model, Split(signals, np.zeros((3, 5), np.float32)), seed=4)
    others = np.random.default_rng(4).integers(0, 3, (2, 3))
    said, state = [], model.initial_state(3)
    with torch.inference_mode():
        for hop in np.concatenate([*signals[others], signals], axis=1).reshape(3, 30, 100, 12).swapaxes(0, 1):
            logits, state = model(torch.from_numpy(hop), state)
            said.append(logits.numpy())
    np.testing.assert_allclose(warm, logit(mean_probability(np.array(said[-VOTES:]))), atol=1e-5)


def test_what_is_asked_of_a_model_later_is_no_other_pre_training():
    preset = load_preset("streaming")
    method, plan = next((name, plan) for name, plan in DEFAULTS.items() if name == "cpc")
    voting = msgspec.structs.replace(preset, model=dataclasses.replace(preset.model, vote_hops=2))
    assert identity_of(preset, method, plan) == identity_of(voting, method, plan)
