"""Where the daemon calls the model: the same scores from either kind of thread, each for whom they are of."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import numpy as np
import pytest

from edge.daemon.device_stream import DeviceStream
from edge.daemon.model_thread import AnyModelThread, Batch, ModelThread, NativeModelThread, model_thread
from edge.errors import SignalError
from edge.monitor.engine import HopScore
from edge.runtime.bundle import load_bundle
from edge.runtime.native import NativeRuntime
from edge.runtime.onnx import OnnxRuntime
from tests.ecg import chunks_of, patient
from tests.unit.test_device_stream import make_stream

SECONDS = 6
KINDS: dict[str, Callable[[], ModelThread]] = {
    "native": lambda: NativeModelThread(NativeRuntime(load_bundle())),
    "any": lambda: AnyModelThread(NativeRuntime(load_bundle())),
}


@pytest.fixture(params=KINDS)
def make_thread(request: pytest.FixtureRequest) -> Callable[[], ModelThread]:
    return KINDS[request.param]


def waiting_streams(count: int) -> list[DeviceStream]:
    """Streams of patients of their own, each with as many hops as seconds waiting."""
    streams = [make_stream(f"bed-{k}") for k in range(count)]
    for seed, stream in enumerate(streams):
        for chunk in chunks_of(patient(SECONDS, seed=seed), 100, 50):
            stream.receive(chunk, 0.0)
    return streams


def next_batch(streams: list[DeviceStream]) -> Batch:
    return [(stream, stream.waiting.popleft()) for stream in streams]


async def score_all(thread: ModelThread, streams: list[DeviceStream]) -> list[list[HopScore]]:
    """Score with two batches in hand, as the pipeline does."""
    first = thread.score(next_batch(streams))
    scored = []
    for _ in range(SECONDS - 1):
        second = thread.score(next_batch(streams))
        scored.append(await first)
        first = second
    return [*scored, await first]


def logits_of(scored: list[list[HopScore]]) -> np.ndarray:
    return np.array([[score.logits for score in batch] for batch in scored])


def test_both_kinds_of_thread_give_the_same_scores() -> None:
    async def scored_by(make: Callable[[], ModelThread]) -> np.ndarray:
        thread = make()
        try:
            return logits_of(await score_all(thread, waiting_streams(40)))
        finally:
            thread.close()

    native, other = (asyncio.run(scored_by(make)) for make in KINDS.values())
    np.testing.assert_array_equal(native, other)


def test_a_batch_nobody_waits_for_any_more_leaves_the_others_theirs(make_thread: Callable[[], ModelThread]) -> None:
    async def third_with_the_second_given_up(give_up: bool) -> np.ndarray:
        thread, streams = make_thread(), waiting_streams(3)
        futures = [thread.score(next_batch([stream])) for stream in streams]
        if give_up:
            futures[1].cancel()
        try:
            await futures[0]
            return logits_of([await futures[2]])
        finally:
            thread.close()

    undisturbed, disturbed = (asyncio.run(third_with_the_second_given_up(give_up)) for give_up in (False, True))
    np.testing.assert_array_equal(disturbed, undisturbed)


def test_what_the_runtime_refuses_comes_out_where_the_scores_would(make_thread: Callable[[], ModelThread]) -> None:
    async def two_batches() -> list[HopScore]:
        thread = make_thread()
        good, bad = waiting_streams(2)
        placed = await thread.score(next_batch([good]))
        assert placed[0].fault is None
        try:
            with pytest.raises(SignalError, match="named twice"):
                await thread.score([*next_batch([good]), *next_batch([good])])
            return await thread.score(next_batch([bad]))
        finally:
            thread.close()

    assert asyncio.run(two_batches())[0].fault is None


def test_what_is_called_sees_the_states_after_the_batches_before_it(make_thread: Callable[[], ModelThread]) -> None:
    async def hops_seen_in(calls_early: bool) -> float:
        runtime = NativeRuntime(load_bundle())
        thread = NativeModelThread(runtime) if make_thread is KINDS["native"] else AnyModelThread(runtime)
        (stream,) = waiting_streams(1)
        try:
            await thread.score(next_batch([stream]))
            assert stream.model is not None
            under_way = thread.score(next_batch([stream]))
            if not calls_early:
                await under_way
            state = await thread.call(runtime.save_slot, stream.model.slot)
            await under_way
            return float(sum(np.abs(tensor.astype(np.float64)).sum() for tensor in state.values()))
        finally:
            thread.close()

    early, late = (asyncio.run(hops_seen_in(early)) for early in (True, False))
    assert early == late


def test_the_native_runtime_is_called_in_the_quick_way_and_every_other_in_a_thread_of_python() -> None:
    bundle = load_bundle()
    threads = [
        model_thread(runtime) for runtime in (NativeRuntime(bundle), NativeRuntime(bundle, 2), OnnxRuntime(bundle))
    ]
    assert [type(thread) for thread in threads] == [NativeModelThread, AnyModelThread, AnyModelThread]
    for thread in threads:
        thread.close()
