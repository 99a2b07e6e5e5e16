"""The state monitor: silent on ECG, not fooled by a moment, quick to give up a state that no signal explains."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edge.monitor.engine import CHECK_EVERY_S, STRIKES, Fault, ModelStream, score_hops
from edge.monitor.offline import hops_of
from edge.monitor.path import Hop
from edge.runtime.base import Runtime, root_mean_square, sizes_of
from edge.runtime.bundle import Bundle, load_bundle
from edge.runtime.manifest import StateMonitor, StateRange
from edge.runtime.select import open_runtime
from edge.runtime.state_monitor import check_state
from edge.signal.leads import STANDARD_LEADS
from tests.ecg import millivolts, patient
from tests.random_models import random_bundle
from tests.real_ptbxl import part_of_ptbxl
from tests.watched import multiplied, watched_bundle
from trainer.data import records_mv
from trainer.model import ModelConfig
from trainer.ptbxl import open_ptbxl
from trainer.state_monitor import StreamSettings, measure_monitor, watched_manifest

MANIFEST = load_bundle().manifest
CHECK_HOPS, WINDOW_HOPS = round(CHECK_EVERY_S / MANIFEST.hop_s), MANIFEST.window_hops
SSM = [tensor.name for tensor in MANIFEST.state if tensor.name.startswith("ssm_")]
RANGE = StateRange(p50=1.0, p99=2.0, p99_9=3.0, max=4.0, limit=8.0)
MONITOR = StateMonitor({"a": RANGE, "b": RANGE})

sizes = st.floats(2.0**-20, 2.0**127, width=32)


@pytest.fixture(scope="module")
def runtime(tmp_path_factory: pytest.TempPathFactory) -> Runtime:
    return open_runtime(watched_bundle(tmp_path_factory.mktemp("bundles") / "watched"))


@pytest.fixture
def stream(runtime):
    stream = ModelStream(runtime.open_slot())
    yield stream
    runtime.close_slot(stream.slot)


def unwatched(bundle: Bundle) -> Runtime:
    """Return a runtime of a bundle as it would be without a monitor."""
    return open_runtime(Bundle(bundle.path, watched_manifest(bundle.manifest, None)))


def hops_for(count: int, seed: int = 0) -> list[Hop]:
    """Return so many hops of a schematic patient."""
    return hops_of(MANIFEST, millivolts(patient(count * MANIFEST.hop_s, seed=seed)), 100, STANDARD_LEADS)


def play(runtime, stream, hops):
    return [score_hops(runtime, [stream], [hop])[0] for hop in hops]


def due_from(hop: int, stream: ModelStream) -> int:
    """Return the first hop from this one on, counted from 1, after which a sound stream's state is looked at."""
    return next(n for n in range(hop, hop + CHECK_HOPS) if (n + stream.slot) % CHECK_HOPS == 0)


def test_streams_that_began_together_are_not_looked_at_together(runtime):
    streams = [ModelStream(runtime.open_slot()) for _ in range(CHECK_HOPS)]
    assert len({due_from(2, stream) for stream in streams}) == CHECK_HOPS
    hops = hops_for(CHECK_HOPS + 1, seed=2)
    looks = [sum(s.state is not None for s in score_hops(runtime, streams, [hop] * CHECK_HOPS)) for hop in hops]
    assert looks == [CHECK_HOPS] + [1] * CHECK_HOPS
    for stream in streams:
        runtime.close_slot(stream.slot)


def corrupt(runtime, stream, factor, prefix="ssm_"):
    runtime.load_slot(stream.slot, multiplied(runtime.save_slot(stream.slot), factor, prefix))


@given(size=sizes, shape=st.sampled_from([(7,), (3, 5), (2, 3, 4)]))
def test_the_size_of_a_state_is_its_root_mean_square_however_large(size, shape):
    signs = np.where(np.arange(np.prod(shape)) % 2, -1, 1).reshape(shape)
    assert root_mean_square((signs * np.float32(size)).astype(np.float32)) == pytest.approx(size, rel=1e-6)


@given(a=sizes, b=sizes)
def test_a_tensor_above_its_limit_is_named_and_every_size_is_told_in_99th_percentiles(a, b):
    check = check_state(MONITOR, sizes_of({"a": np.full(4, a, np.float32), "b": np.full(4, b, np.float32)}))
    assert check.out_of_range == tuple(name for name, size in (("a", a), ("b", b)) if size > RANGE.limit)
    assert check.ratios == pytest.approx({"a": a / RANGE.p99, "b": b / RANGE.p99}, rel=1e-6)
    assert check.finite


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_a_value_that_is_no_number_is_out_of_range(bad):
    check = check_state(MONITOR, sizes_of({"a": np.array([1, bad], np.float32), "b": np.ones(2, np.float32)}))
    assert (check.out_of_range, check.finite) == (("a",), False)


def test_a_sound_stream_is_looked_at_when_it_starts_and_then_every_ten_seconds(runtime, stream):
    scores = play(runtime, stream, hops_for(3 * CHECK_HOPS + 2, seed=9))
    looked_at = [number for number, score in enumerate(scores, 1) if score.state is not None]
    first = due_from(2, stream)
    assert looked_at == [1, *range(first, 3 * CHECK_HOPS + 3, CHECK_HOPS)]
    assert all(score.healthy and not score.state.out_of_range for score in scores if score.state is not None)
    assert [number for number, score in enumerate(scores, 1) if not score.ready] == list(range(1, WINDOW_HOPS))


def test_the_monitor_changes_no_score(runtime, stream):
    hops, without = hops_for(2 * CHECK_HOPS + 5, seed=3), unwatched(runtime.bundle)
    watched, plain = play(runtime, stream, hops), play(without, ModelStream(without.open_slot()), hops)
    assert np.array_equal([s.logits for s in watched], [s.logits for s in plain])
    assert {score.state for score in plain} == {None}


@settings(max_examples=25)
@given(at=st.integers(1, 25), factor=st.sampled_from([1e3, 1e10, 1e30]))
def test_a_corrupted_state_is_given_up_within_a_dozen_hops_and_the_stream_goes_on_as_from_a_start(runtime, at, factor):
    hops = hops_for(25 + 2 * CHECK_HOPS, seed=4)
    stream, fresh = ModelStream(runtime.open_slot()), ModelStream(runtime.open_slot())
    play(runtime, stream, hops[:at])
    corrupt(runtime, stream, factor)
    scores = play(runtime, stream, hops[at:])
    lost = next(k for k, score in enumerate(scores) if not score.healthy)
    assert lost < CHECK_HOPS + STRIKES
    assert (scores[lost].fault, scores[lost].ready) == (Fault.STATE, False)
    assert all(not score.ready for score in scores[lost - STRIKES + 1 : lost + 1])  # in doubt, so nothing may be said
    again = play(runtime, fresh, hops[at + lost + 1 :])
    assert [score.logits.tolist() for score in scores[lost + 1 :]] == [score.logits.tolist() for score in again]
    assert all(score.healthy for score in again)
    for slot in (stream.slot, fresh.slot):
        runtime.close_slot(slot)


@pytest.mark.parametrize("tensor", [SSM[0], SSM[-1]])
def test_one_corrupted_layer_is_enough_and_is_named(runtime, stream, tensor):
    hops = hops_for(3 * CHECK_HOPS, seed=5)
    play(runtime, stream, hops[:CHECK_HOPS])
    corrupt(runtime, stream, 1e4, prefix=tensor)
    (lost,) = [score for score in play(runtime, stream, hops[CHECK_HOPS:]) if not score.healthy]
    assert lost.state.out_of_range == (tensor,)


def test_a_state_that_comes_back_by_itself_is_kept(runtime, stream):
    hops, due = hops_for(2 * CHECK_HOPS + WINDOW_HOPS + 20, seed=6), due_from(WINDOW_HOPS, stream)
    play(runtime, stream, hops[: due - 1])
    before = runtime.save_slot(stream.slot)
    for hop in hops[due - 1 : due + STRIKES - 2]:
        corrupt(runtime, stream, 1e4)
        (doubtful,) = score_hops(runtime, [stream], [hop])
        assert (doubtful.healthy, doubtful.ready) == (True, False)
    runtime.load_slot(stream.slot, before)
    scores = play(runtime, stream, hops[due + STRIKES - 2 :])
    assert all(score.healthy for score in scores)
    assert all(score.ready for score in scores[WINDOW_HOPS:])
    assert stream.strikes == 0


@pytest.mark.parametrize("prefix", ["stem", "conv_0", SSM[-1], "pool_sum"])
def test_a_value_that_is_no_number_anywhere_in_the_state_ends_it_at_once(runtime, stream, prefix):
    hops = hops_for(12, seed=7)
    play(runtime, stream, hops[:4])
    corrupt(runtime, stream, np.nan, prefix)
    scores = play(runtime, stream, hops[4:])
    assert [score.fault for score in scores] == [Fault.OUTPUT] + [None] * 7


def test_a_stream_beside_a_corrupted_one_is_not_disturbed(runtime):
    streams = [ModelStream(runtime.open_slot()) for _ in range(2)]
    hops = [hops_for(2 * CHECK_HOPS + 5, seed=seed) for seed in (1, 2)]
    faults = []
    for number, together in enumerate(zip(*hops, strict=True)):
        if number == 5:
            corrupt(runtime, streams[0], 1e6)
        faults.append([score.fault for score in score_hops(runtime, streams, together)])
    assert [Fault.STATE in column for column in zip(*faults, strict=True)] == [True, False]
    for stream in streams:
        runtime.close_slot(stream.slot)


def test_without_normalised_blocks_a_saturated_input_drives_the_state_out_until_it_is_over(tmp_path: Path) -> None:
    config = ModelConfig(d_model=16, n_layers=2, d_state=4, residual=False, final_norm=False, pooling="mean")
    watched = watched_bundle(tmp_path / "watched", random_bundle(tmp_path / "plain", config))
    runtime = open_runtime(watched)
    stream = ModelStream(runtime.open_slot())
    samples_mv = millivolts(patient(50, seed=8))
    rails_mv = 32.0 * np.sign(np.sin(2 * np.pi * 1.3 * np.arange(1000) / 100))
    samples_mv[1000:2000] = rails_mv[:, None]
    scores = play(runtime, stream, hops_of(watched.manifest, samples_mv, 100, STANDARD_LEADS))
    faulty = [number for number, score in enumerate(scores) if not score.healthy]
    assert faulty
    assert {scores[number].fault for number in faulty} == {Fault.STATE}
    assert faulty[0] >= 10
    assert faulty[-1] < 20 + CHECK_HOPS + STRIKES
    assert scores[-1].ready


def test_real_streams_never_trip_whatever_the_electrodes_do(ptbxl_root: Path, tmp_path: Path, runtime: Runtime) -> None:
    part = part_of_ptbxl(ptbxl_root, tmp_path / "part", dict.fromkeys(range(1, 9), 20) | {9: 110})
    data = open_ptbxl(part, tmp_path / "cache")
    short = StreamSettings(streams=8, seconds=120, seed=1)
    monitor = measure_monitor(runtime.bundle, data, range(1, 9), short, lambda _: None)
    watched = open_runtime(Bundle(runtime.bundle.path, watched_manifest(runtime.bundle.manifest, monitor)))
    rows = np.random.default_rng(2).permutation(data.rows([9]))[:96].reshape(8, 12)
    samples_mv = np.stack([np.concatenate(list(records_mv(data, of_stream))) for of_stream in rows])
    samples_mv[0, 4000:8000] = 32.0 * np.sign(np.sin(2 * np.pi * 1.3 * np.arange(4000) / 100))[:, None]  # to the rails
    samples_mv[1, 4000:8000] = np.random.default_rng(3).uniform(-32, 32, (4000, 12))
    samples_mv[2, 4000:8000] = 0.0
    samples_mv[3] *= 4
    streams = [ModelStream(watched.open_slot()) for _ in samples_mv]
    hops = [hops_of(watched.bundle.manifest, of_stream, 100, STANDARD_LEADS) for of_stream in samples_mv]
    for together in zip(*hops, strict=True):
        assert all(score.healthy for score in score_hops(watched, streams, together))
        checks = [check_state(monitor, watched.state_sizes(stream.slot)) for stream in streams]
        assert not any(check.out_of_range for check in checks)
