"""The TensorRT runtime on a GPU that is not there: slots, buffers, batches and graphs, held against ONNX Runtime.

The stand-in (`tests/fake_gpu`) runs the engine's ONNX graph in ONNX Runtime and the shipped PTX instruction by
instruction, and faults where a GPU would be wrong.
"""

from __future__ import annotations

import gc
import logging
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edge.errors import RuntimeUnavailableError, SignalError
from edge.runtime.bundle import Bundle
from edge.runtime.onnx import OnnxRuntime
from edge.runtime.tensorrt.runtime import TensorRtRuntime
from edge.runtime.tensorrt.slots import INITIAL_SLOTS
from tests.fake_gpu.machine import Machine
from tests.fake_gpu.plug_in import build_engine_here, plug_in
from tests.tiny_bundle import tiny_bundle

HOP = 100
LEADS = 12
STREAMS = 20
CLOSE = 1e-5
"""Matrix products of other batch sizes round differently, no more."""


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return tiny_bundle(tmp_path_factory.mktemp("bundles") / "bundle")


@pytest.fixture(scope="module")
def engines(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("engines")


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch, engines: Path) -> Machine:
    machine = Machine()
    plug_in(monkeypatch, machine, engines)
    return machine


@pytest.fixture
def runtime(gpu: Machine, bundle: Bundle) -> TensorRtRuntime:
    build_engine_here(bundle)
    return TensorRtRuntime(bundle)


@pytest.fixture(scope="module")
def long_lived(bundle: Bundle, engines: Path) -> Iterator[TensorRtRuntime]:
    """One runtime for many examples, as a daemon has it."""
    with pytest.MonkeyPatch.context() as patch:
        plug_in(patch, Machine(), engines)
        build_engine_here(bundle)
        yield TensorRtRuntime(bundle)


Action = tuple[str, list[int], int]
actions = st.lists(
    st.tuples(
        st.sampled_from(["step", "step", "step", "reset", "reopen", "swap"]),
        st.lists(st.integers(0, STREAMS - 1), min_size=1, max_size=STREAMS, unique=True),
        st.sampled_from([HOP, HOP, HOP, 4, 52, 300]),
    ),
    min_size=1,
    max_size=8,
)


@given(actions=actions, seed=st.integers(0, 2**32 - 1))
@settings(max_examples=60)
def test_any_order_of_hops_resets_and_restored_states_gives_what_onnxruntime_gives(
    long_lived: TensorRtRuntime, bundle: Bundle, actions: list[Action], seed: int
) -> None:
    rng = np.random.default_rng(seed)
    ours, theirs = long_lived, OnnxRuntime(bundle)
    mine, other = ([runtime.open_slot() for _ in range(STREAMS)] for runtime in (ours, theirs))
    for action, streams, samples in actions:
        first, last = streams[0], streams[-1]
        if action == "step":
            frames = rng.standard_normal((len(streams), samples, LEADS), dtype=np.float32)
            got = ours.step([mine[s] for s in streams], frames)
            expected = theirs.step([other[s] for s in streams], frames)
            np.testing.assert_allclose(got, expected, rtol=0, atol=CLOSE)
        for runtime, slots in ((ours, mine), (theirs, other)):
            if action == "reset":
                runtime.reset_slot(slots[first])
            elif action == "reopen":
                runtime.close_slot(slots[first])
                slots[first] = runtime.open_slot()
            elif action == "swap":
                state = runtime.save_slot(slots[first])
                runtime.load_slot(slots[first], runtime.save_slot(slots[last]))
                runtime.load_slot(slots[last], state)
    for slot, reference in zip(mine, other, strict=True):
        assert_same_state(ours, slot, theirs, reference)
        ours.close_slot(slot)


@pytest.mark.parametrize(
    ("streams", "samples", "profiles"),
    [
        (1, HOP, [0]),
        (2, HOP, [1]),
        (16, HOP, [1]),
        (17, HOP, [2]),
        (256, HOP, [2]),
        (257, HOP, [2, 0]),
        (300, HOP, [2, 2]),
        (1, 10 * HOP, [0]),
        (40, 10 * HOP, [1, 1, 1]),
        (17, HOP + 4, [1, 0]),
    ],
)
def test_a_batch_goes_to_the_smallest_profile_that_holds_it_and_whole_windows_to_small_ones(
    runtime: TensorRtRuntime, gpu: Machine, bundle: Bundle, streams: int, samples: int, profiles: list[int]
) -> None:
    reference = OnnxRuntime(bundle)
    mine, other = ([r.open_slot() for _ in range(streams)] for r in (runtime, reference))
    frames = noise(streams, samples)
    np.testing.assert_allclose(runtime.step(mine, frames), reference.step(other, frames), rtol=0, atol=CLOSE)
    assert gpu.profiles_used == profiles
    assert_same_state(runtime, mine[-1], reference, other[-1])


def test_the_second_hop_is_recorded_and_every_later_one_replayed_without_allocating(
    runtime: TensorRtRuntime, gpu: Machine
) -> None:
    slots = [runtime.open_slot() for _ in range(3)]
    runtime.step(slots, noise(3))
    runtime.step(slots, noise(3))
    assert (gpu.executions, gpu.replays) == (1, 1)
    allocations = gpu.allocations
    for _ in range(5):
        runtime.step(slots, noise(3))
    assert (gpu.executions, gpu.replays) == (1, 6)
    assert gpu.allocations == allocations


def test_each_batch_size_has_a_graph_of_its_own(runtime: TensorRtRuntime, gpu: Machine) -> None:
    slots = [runtime.open_slot() for _ in range(17)]
    for _ in range(3):
        for streams in (1, 5, 17):
            runtime.step(slots[:streams], noise(streams))
    assert (gpu.executions, gpu.replays) == (3, 6)
    assert len(gpu.graphs) == 3


def test_a_graph_that_no_longer_holds_is_destroyed(runtime: TensorRtRuntime, gpu: Machine) -> None:
    slot = runtime.open_slot()
    for samples in (HOP, HOP, 52, 52, HOP, HOP):
        runtime.step([slot], noise(1, samples))
    assert gpu.replays == 3
    assert len(gpu.graphs) == 1


def test_an_engine_that_cannot_be_recorded_runs_launch_by_launch_and_says_so_once(
    runtime: TensorRtRuntime, gpu: Machine, bundle: Bundle, caplog: pytest.LogCaptureFixture
) -> None:
    gpu.recordable = False
    reference = OnnxRuntime(bundle)
    slot, other = runtime.open_slot(), reference.open_slot()
    for _ in range(4):
        frames = noise(1)
        np.testing.assert_allclose(runtime.step([slot], frames), reference.step([other], frames), rtol=0, atol=CLOSE)
    assert (gpu.executions, gpu.replays) == (4, 0)
    assert [record.getMessage() for record in caplog.records] == [
        "batch 1 runs launch by launch: cuStreamEndCapture returned error 901"
    ]
    assert caplog.records[0].levelno == logging.WARNING


def test_a_growing_table_keeps_every_state_and_graphs_of_the_old_one_are_not_used(
    runtime: TensorRtRuntime, gpu: Machine, bundle: Bundle
) -> None:
    reference = OnnxRuntime(bundle)
    mine, other = [runtime.open_slot()], [reference.open_slot()]
    for _ in range(3):
        frames = noise(1)
        runtime.step(mine, frames)
        reference.step(other, frames)
    assert gpu.replays == 2
    for _ in range(2 * INITIAL_SLOTS + 1):
        mine.append(runtime.open_slot())
        other.append(reference.open_slot())
    for _ in range(3):
        frames = noise(len(mine))
        got, expected = runtime.step(mine, frames), reference.step(other, frames)
        np.testing.assert_allclose(got, expected, rtol=0, atol=CLOSE)
        runtime.step(mine[:1], frames[:1])
        reference.step(other[:1], frames[:1])
    for slot in (0, INITIAL_SLOTS, len(mine) - 1):
        assert_same_state(runtime, mine[slot], reference, other[slot])


def test_a_state_goes_from_the_gpu_to_another_runtime_and_back(runtime: TensorRtRuntime, bundle: Bundle) -> None:
    reference = OnnxRuntime(bundle)
    slot, other = runtime.open_slot(), reference.open_slot()
    runtime.step([slot], noise(1))
    reference.load_slot(other, runtime.save_slot(slot))
    frames = noise(1)
    expected = reference.step([other], frames)
    np.testing.assert_allclose(runtime.step([slot], frames), expected, rtol=0, atol=CLOSE)
    back = runtime.open_slot()
    runtime.load_slot(back, reference.save_slot(other))
    assert_same_state(runtime, back, reference, other)


def test_a_runtime_opened_in_one_thread_works_in_another(runtime: TensorRtRuntime, bundle: Bundle) -> None:
    with ThreadPoolExecutor(1) as thread:
        slot = thread.submit(runtime.open_slot).result()
        logits = thread.submit(runtime.step, [slot], noise(1)).result()
        thread.submit(runtime.reset_slot, slot).result()
    assert np.isfinite(logits).all()
    assert not runtime.save_slot(slot)["pool_count"].any()


def test_float16_on_a_t4_stays_within_its_tolerance(
    bundle: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    machine = Machine(sm=(7, 5), name="Tesla T4", float32_products=False)
    plug_in(monkeypatch, machine, tmp_path)
    build_engine_here(bundle)
    runtime, reference = TensorRtRuntime(bundle), OnnxRuntime(bundle)
    assert runtime.precision == "fp16"
    slot, other, frames = runtime.open_slot(), reference.open_slot(), noise(1)
    difference = np.abs(runtime.step([slot], frames) - reference.step([other], frames)).max()
    assert 0 < difference <= 2e-2


def test_no_streams_are_no_work(runtime: TensorRtRuntime, gpu: Machine) -> None:
    assert runtime.step([], noise(0)).shape == (0, 5)
    assert gpu.executions == 0


@pytest.mark.parametrize("slots", [[7], [0, 0], [0, 1, 2]])
def test_slots_that_are_not_open_or_named_twice_are_refused(runtime: TensorRtRuntime, slots: list[int]) -> None:
    runtime.open_slot()
    with pytest.raises(SignalError, match="slot"):
        runtime.step(slots, noise(len(slots)))


@pytest.mark.parametrize("shape", [(1, 6, 12), (2, HOP, 12), (1, HOP, 3), (1, 0, 12), (1, 1004, 12)])
def test_frames_that_do_not_fit_are_refused(runtime: TensorRtRuntime, shape: tuple[int, int, int]) -> None:
    with pytest.raises(SignalError, match="samples"):
        runtime.step([runtime.open_slot()], np.zeros(shape, dtype=np.float32))


def test_a_state_that_does_not_fit_is_refused_whole(runtime: TensorRtRuntime) -> None:
    slot = runtime.open_slot()
    before = runtime.save_slot(slot)
    wrong = before | {"pool_count": np.ones(3, dtype=np.float32)}
    for state in (wrong, {"pool_count": before["pool_count"]}):
        with pytest.raises(SignalError, match="saved state"):
            runtime.load_slot(slot, state)
    assert not runtime.save_slot(slot)["pool_count"].any()


@pytest.mark.parametrize("hops_before", [0, 1, 2], ids=["first hop", "recording", "replaying"])
def test_a_gpu_that_dies_is_reported_in_one_line(runtime: TensorRtRuntime, gpu: Machine, hops_before: int) -> None:
    slot = runtime.open_slot()
    for _ in range(hops_before):
        runtime.step([slot], noise(1))
    gpu.failure = "cuStreamSynchronize failed:\nunspecified launch failure"
    with pytest.raises(RuntimeUnavailableError, match=r"^runtime 'tensorrt' .*: the GPU cannot be used: .*$"):
        runtime.step([slot], noise(1))


def test_a_gpu_that_dies_whole_leaves_no_context_in_the_thread(runtime: TensorRtRuntime, gpu: Machine) -> None:
    """pycuda ends the process when a thread ends that it believes to have one."""
    slot = runtime.open_slot()
    gpu.failure, gpu.dies_whole = "unspecified launch failure", True
    with pytest.raises(RuntimeUnavailableError, match="the GPU cannot be used"):
        runtime.step([slot], noise(1))
    assert not gpu.is_current
    assert gpu.released


def test_a_runtime_that_is_given_up_does_not_release_what_its_parts_live_in(gpu: Machine, bundle: Bundle) -> None:
    build_engine_here(bundle)
    runtime = TensorRtRuntime(bundle)
    runtime.step([runtime.open_slot()], noise(1))
    del runtime
    gc.collect()
    assert not gpu.released


def test_tensorrt_is_given_one_logger_for_good(gpu: Machine, bundle: Bundle) -> None:
    build_engine_here(bundle)
    TensorRtRuntime(bundle)
    TensorRtRuntime(bundle, precision="fp32")
    assert len(gpu.loggers) >= 3
    assert len(set(map(id, gpu.loggers))) == 1


def noise(streams: int, samples: int = HOP) -> np.ndarray:
    return np.random.default_rng(streams + samples).standard_normal((streams, samples, LEADS), dtype=np.float32)


def assert_same_state(ours: TensorRtRuntime, slot: int, theirs: OnnxRuntime, reference: int) -> None:
    expected = theirs.save_slot(reference)
    got = ours.save_slot(slot)
    assert list(got) == list(expected)
    for name, tensor in expected.items():
        np.testing.assert_allclose(got[name], tensor, rtol=1e-5, atol=CLOSE, err_msg=name)
