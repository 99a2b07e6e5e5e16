"""The native runtime: every width says what ONNX Runtime says, and streams are kept apart whatever they are sent."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from edge.errors import RuntimeUnavailableError, SignalError
from edge.runtime import native_build
from edge.runtime.base import Runtime, State, sizes_of
from edge.runtime.bundle import Bundle, load_bundle
from edge.runtime.native import NativeRuntime
from edge.runtime.native_build import runnable_builds
from edge.runtime.onnx import OnnxRuntime
from edge.runtime.select import open_runtime
from export.bundle import write_bundle
from export.signals import ptbxl_signals, synthetic_signals
from export.verify import one_thread
from tests.random_models import CONFIGS, SMALL, random_bundle, random_model
from tests.real_ptbxl import part_of_ptbxl
from tests.tiny_bundle import tiny_checkpoint
from trainer.checkpoint import Checkpoint, model_from_bundle
from trainer.model import MambaBlock, ModelConfig
from trainer.ptbxl import CACHE_VARIABLE

WIDTHS = list(runnable_builds())
CLOSE = 2e-5
LEADS, HOP = SMALL.n_leads, SMALL.hop_samples
LENGTHS = (4, 12, 52, 100, 400)

ODD = {
    "narrower-than-a-vector": ModelConfig(d_model=7, n_layers=1, d_state=3, stem_kernel=3),
    "a-stem-of-two": ModelConfig(d_model=20, n_layers=1, d_state=4, stem_layers=((9, 5, 2),), stem_kernel=2),
    "a-stem-of-four": ModelConfig(
        d_model=16, n_layers=1, d_state=8, stem_layers=((16, 7, 1), (33, 1, 1), (5, 3, 2)), stem_kernel=4, stride=4
    ),
    "six-layers": ModelConfig(d_model=20, n_layers=6, d_state=8, expand=3),
    "no-multiple-of-any-width": ModelConfig(d_model=37, n_layers=2, stride=5, stem_kernel=11),
    "many-states-and-taps": ModelConfig(d_model=24, n_layers=2, d_state=29, d_conv=7),
    "a-frame-for-every-sample": ModelConfig(d_model=33, n_layers=1, stem_kernel=2, stride=1, hop_samples=10, d_conv=3),
}

COMPUTED = {name: config for name, config in (CONFIGS | ODD).items() if config.pooling != "mean+peaks"}


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return random_bundle(tmp_path_factory.mktemp("bundles") / "bundle")


@pytest.fixture(params=WIDTHS)
def width(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def test_the_kernel_was_built_for_this_machine() -> None:
    assert native_build.BASE in WIDTHS
    assert NativeRuntime(load_bundle()).name == f"native-{WIDTHS[0]}"


def test_a_mean_of_peaks_is_left_to_onnxruntime(tmp_path: Path) -> None:
    bundle = random_bundle(tmp_path / "bundle", CONFIGS["stem-of-three"])
    with pytest.raises(RuntimeUnavailableError, match="not one the kernel computes"):
        NativeRuntime(bundle)
    assert open_runtime(bundle).name == "onnxruntime"


@pytest.mark.parametrize("config", COMPUTED.values(), ids=COMPUTED)
def test_any_model_gives_what_onnxruntime_gives_in_logits_and_states(config: ModelConfig, tmp_path: Path) -> None:
    bundle = random_bundle(tmp_path / "bundle", config)
    for width in WIDTHS:
        ours, theirs = NativeRuntime(bundle, width=width), OnnxRuntime(bundle)
        mine, other = open_slots(ours, 3), open_slots(theirs, 3)
        hop, window, stride = config.hop_samples, config.window_samples, config.stride
        for samples in (hop, stride, window, 3 * stride, hop):
            frames = np.random.default_rng(samples).standard_normal((3, samples, LEADS), dtype=np.float32)
            expected = theirs.step(other, frames)
            np.testing.assert_allclose(ours.step(mine, frames), expected, rtol=CLOSE, atol=CLOSE, err_msg=width)
        for slot, twin in zip(mine, other, strict=True):
            assert_states_close(ours.save_slot(slot), theirs.save_slot(twin))


def test_the_shipped_model_is_within_a_hundred_thousandth_of_pytorch(width: str) -> None:
    bundle = load_bundle()
    signals = synthetic_signals(bundle.manifest, 2, 30.0)
    runtime, model = NativeRuntime(bundle, width=width), model_from_bundle(bundle)
    slots, state = open_slots(runtime, 2), model.initial_state(2)
    with one_thread(), torch.inference_mode():
        for begin in range(0, signals.shape[1], 100):
            hop = signals[:, begin : begin + 100]
            expected, state = model(torch.from_numpy(hop), state)
            np.testing.assert_allclose(runtime.step(slots, hop), expected.numpy(), rtol=0, atol=1e-5)


def test_real_ecg_gives_what_onnxruntime_gives(
    ptbxl_root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, width: str
) -> None:
    monkeypatch.setenv(CACHE_VARIABLE, str(tmp_path / "cache"))
    bundle = load_bundle()
    signals = ptbxl_signals(bundle.manifest, part_of_ptbxl(ptbxl_root, tmp_path / "part", {1: 12}), 4, 30.0)
    ours, theirs = NativeRuntime(bundle, width=width), OnnxRuntime(bundle)
    mine, other = open_slots(ours, len(signals)), open_slots(theirs, len(signals))
    for begin in range(0, signals.shape[1], 100):
        hop = signals[:, begin : begin + 100]
        np.testing.assert_allclose(ours.step(mine, hop), theirs.step(other, hop), rtol=0, atol=1e-5)


@settings(max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(cuts=st.lists(st.integers(1, 249), max_size=8), streams=st.integers(1, 5))
def test_any_chunking_gives_the_same_scores(bundle: Bundle, width: str, cuts: list[int], streams: int) -> None:
    runtime = NativeRuntime(bundle, width=width)
    whole, parts = open_slots(runtime, streams), open_slots(runtime, streams)
    frames = np.random.default_rng(2).standard_normal((streams, 1000, LEADS), dtype=np.float32)
    expected = runtime.step(whole, frames)
    edges = sorted({0, 1000, *(4 * cut for cut in cuts)})  # ten chunks at most: as many as a window has places
    for begin, end in pairwise(edges):
        logits = runtime.step(parts, frames[:, begin:end])
    np.testing.assert_allclose(logits, expected, rtol=0, atol=CLOSE)
    for slot, twin in zip(whole, parts, strict=True):
        one, other = (runtime.save_slot(s) for s in (slot, twin))
        assert_states_close(*({k: v for k, v in state.items() if "pool" not in k} for state in (one, other)))


@settings(max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(order=st.permutations(range(7)), count=st.integers(1, 7), samples=st.sampled_from(LENGTHS))
def test_a_stream_does_not_notice_who_shares_its_step(
    bundle: Bundle, width: str, order: list[int], count: int, samples: int
) -> None:
    runtime, chosen = NativeRuntime(bundle, width=width), order[:count]
    slots, alone = open_slots(runtime, 7), open_slots(runtime, 7)
    frames = np.random.default_rng(3).standard_normal((7, samples, LEADS), dtype=np.float32)
    together = runtime.step([slots[k] for k in chosen], frames[chosen])
    for row, k in enumerate(chosen):
        np.testing.assert_allclose(runtime.step([alone[k]], frames[k : k + 1])[0], together[row], rtol=0, atol=CLOSE)
    assert not any(runtime.save_slot(slots[k])["pool_count"].any() for k in order[count:])


def test_a_stream_of_nonsense_reaches_neither_the_others_nor_who_comes_after(bundle: Bundle, width: str) -> None:
    runtime = NativeRuntime(bundle, width=width)
    sick, well, alone = open_slots(runtime, 3)
    for k, value in enumerate((np.nan, np.inf, -np.inf, 3e38, -3e38)):
        nonsense = np.full((HOP, LEADS), value, dtype=np.float32)
        logits = runtime.step([sick, well], np.stack([nonsense, hop_of(k)]))
        np.testing.assert_allclose(logits[1], runtime.step([alone], hop_of(k)[None])[0], rtol=0, atol=CLOSE)
    runtime.close_slot(sick)
    assert runtime.open_slot() == sick
    fresh = runtime.open_slot()
    np.testing.assert_array_equal(runtime.step([sick], hop_of(9)[None]), runtime.step([fresh], hop_of(9)[None]))


@pytest.mark.parametrize("name", ["a-stem-of-four", "narrower-than-a-vector", "six-layers"])
def test_a_stream_that_was_nonsense_is_well_with_a_state_of_before(name: str, tmp_path: Path, width: str) -> None:
    """Also where the kernel computes in the padding between tensors: zeros times what is no number are no number."""
    bundle = random_bundle(tmp_path / "bundle", ODD[name])
    runtime = NativeRuntime(bundle, width=width)
    sick, well = open_slots(runtime, 2)
    runtime.step([sick, well], np.stack([hop_of(0)] * 2))
    saved = runtime.save_slot(sick)
    runtime.step([sick], np.full((1, HOP, LEADS), np.nan, dtype=np.float32))
    runtime.load_slot(sick, saved)
    for k in range(3):
        np.testing.assert_array_equal(*(runtime.step([slot], hop_of(k)[None]) for slot in (sick, well)))


def test_a_channel_that_forgets_within_one_frame_is_computed_too(tmp_path: Path, width: str) -> None:
    bundle = forgetful_bundle(tmp_path / "forgetful")
    ours, theirs = NativeRuntime(bundle, width=width), OnnxRuntime(bundle)
    (mine,), (other,) = open_slots(ours, 1), open_slots(theirs, 1)
    for k in range(3):
        expected = theirs.step([other], hop_of(k)[None])
        np.testing.assert_allclose(ours.step([mine], hop_of(k)[None]), expected, rtol=CLOSE, atol=CLOSE)
    assert_states_close(ours.save_slot(mine), theirs.save_slot(other))


def test_streams_keep_their_state_when_more_come_than_there_was_room_for(bundle: Bundle) -> None:
    runtime = NativeRuntime(bundle)
    early = open_slots(runtime, 2)
    runtime.step(early, np.stack([hop_of(0), hop_of(1)]))
    before = [runtime.save_slot(slot) for slot in early]
    assert len({*early, *open_slots(runtime, 100)}) == 102
    for slot, state in zip(early, before, strict=True):
        for name, tensor in runtime.save_slot(slot).items():
            np.testing.assert_array_equal(tensor, state[name])


def test_a_stream_moves_between_widths_and_runtimes_with_its_state(bundle: Bundle) -> None:
    runtimes: list[Runtime] = [*(NativeRuntime(bundle, width=width) for width in WIDTHS), OnnxRuntime(bundle)]
    wandering, stays = [runtime.open_slot() for runtime in runtimes], runtimes[-1].open_slot()
    for k in range(3 * len(runtimes)):
        here, after = k % len(runtimes), (k + 1) % len(runtimes)
        logits = runtimes[here].step([wandering[here]], hop_of(k)[None])
        np.testing.assert_allclose(logits, runtimes[-1].step([stays], hop_of(k)[None]), rtol=0, atol=CLOSE)
        runtimes[after].load_slot(wandering[after], runtimes[here].save_slot(wandering[here]))


def test_a_slot_that_was_reset_starts_clean(bundle: Bundle, width: str) -> None:
    runtime = NativeRuntime(bundle, width=width)
    (slot,) = open_slots(runtime, 1)
    fresh = runtime.step([slot], hop_of(1)[None])
    runtime.step([slot], hop_of(2)[None])
    runtime.reset_slot(slot)
    assert (runtime.save_slot(slot)["pool_max"] == np.float32(-3.0e38)).all()
    np.testing.assert_array_equal(runtime.step([slot], hop_of(1)[None]), fresh)


def test_threads_give_what_one_gives(bundle: Bundle) -> None:
    single, several = NativeRuntime(bundle), NativeRuntime(bundle, threads=3)
    frames = np.stack([hop_of(k) for k in range(8)])
    ours, theirs = open_slots(single, 8), open_slots(several, 8)
    for count in (8, 2, 1):
        expected = single.step(ours[:count], frames[:count])
        np.testing.assert_allclose(several.step(theirs[:count], frames[:count]), expected, rtol=0, atol=CLOSE)


def test_a_step_of_no_streams_is_nothing(bundle: Bundle) -> None:
    assert NativeRuntime(bundle).step([], np.empty((0, HOP, LEADS), dtype=np.float32)).shape == (0, 5)


def test_other_threads_run_while_a_step_computes(bundle: Bundle) -> None:
    runtime = NativeRuntime(bundle)
    slots = open_slots(runtime, 64)
    frames = np.zeros((64, 1000, LEADS), dtype=np.float32)
    assert any(seen_from_outside(lambda: runtime.step(slots, frames)) for _ in range(20))


def seen_from_outside(call: Callable[[], object]) -> bool:
    """Whether this thread looked at the clock in the middle half of a call that another thread made."""
    times: list[float] = []

    def timed() -> None:
        times.append(time.perf_counter())
        call()
        times.append(time.perf_counter())

    thread = threading.Thread(target=timed, name="computing")
    thread.start()
    seen = []
    while len(times) < 2:
        seen.append(time.perf_counter())
    thread.join()
    margin = (times[1] - times[0]) / 4
    return any(times[0] + margin < moment < times[1] - margin for moment in seen)


def forgetful_bundle(path: Path) -> Bundle:
    """A model whose step sizes are so large that exp(Δ·A) is no normal number any more, in some channels."""
    model = random_model(SMALL)
    for block in model.blocks:
        assert isinstance(block, MambaBlock)
        with torch.no_grad():
            block.dt_proj.bias[::3] = 60.0
    return write_bundle(Checkpoint(model, tiny_checkpoint().facts, Path("random")), path, "forgetful", "0.1")


def hop_of(seed: int) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal((HOP, LEADS), dtype=np.float32)


def open_slots(runtime: Runtime, count: int) -> list[int]:
    return [runtime.open_slot() for _ in range(count)]


def assert_states_close(ours: State, theirs: State) -> None:
    assert ours.keys() == theirs.keys()
    for name, tensor in ours.items():
        np.testing.assert_allclose(tensor, theirs[name], rtol=1e-4, atol=5e-4 if name == "pool_sum" else CLOSE)


@pytest.mark.parametrize("width", runnable_builds())
def test_the_sizes_of_a_state_are_those_of_its_tensors(tmp_path, width):
    bundle = random_bundle(tmp_path / "bundle", CONFIGS["max-without-residual"])
    runtime = NativeRuntime(bundle, width=width)
    slots = [runtime.open_slot() for _ in range(3)]
    frames = np.random.default_rng(0).normal(size=(3, bundle.manifest.hop_samples, 12)).astype(np.float32)
    runtime.step(slots, frames)
    for slot in slots:
        assert runtime.state_sizes(slot) == pytest.approx(sizes_of(runtime.save_slot(slot)), rel=1e-12)
    runtime.close_slot(slots[1])
    with pytest.raises(SignalError, match="not open"):
        runtime.state_sizes(slots[1])
    with pytest.raises(IndexError, match="slot 99"):
        runtime._model.sizes(runtime._slots.rows, 99)
