"""Steps of the native kernel that are begun now and finished later: the same numbers, and nothing touched meanwhile."""

from __future__ import annotations

import select
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from edge.errors import SignalError
from edge.runtime.bundle import Bundle
from edge.runtime.native import NativeRuntime
from edge.runtime.native_build import runnable_builds
from edge.runtime.slots import INITIAL_SLOTS
from tests.random_models import SMALL, random_bundle

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="steps are begun through pipes")
LEADS, HOP = SMALL.n_leads, SMALL.hop_samples


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return random_bundle(tmp_path_factory.mktemp("bundles") / "bundle")


@pytest.fixture(params=list(runnable_builds()))
def runtime(request: pytest.FixtureRequest, bundle: Bundle) -> Iterator[NativeRuntime]:
    runtime = NativeRuntime(bundle, width=request.param)
    yield runtime
    runtime.close_steps()


def hops(count: int, seed: int = 0) -> NDArray[np.float32]:
    return np.random.default_rng(seed).normal(size=(count, HOP, LEADS)).astype(np.float32)


def all_finished(runtime: NativeRuntime, count: int) -> list[NDArray[np.float32]]:
    """Wait as the event loop does, until so many steps are finished."""
    logits: list[NDArray[np.float32]] = []
    while len(logits) < count:
        assert select.select([runtime.fileno()], [], [], 10.0)[0], "no step was finished in ten seconds"
        logits += runtime.finished()
    return logits


@settings(max_examples=20, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.lists(st.integers(0, 11), min_size=1, max_size=12, unique=True), min_size=1, max_size=12))
def test_steps_begun_one_behind_the_other_give_what_steps_waited_for_give(
    runtime: NativeRuntime, batches: list[list[int]]
) -> None:
    waited = NativeRuntime(runtime.bundle, width=runtime.name.removeprefix("native-"))
    theirs, mine = [waited.open_slot() for _ in range(12)], [runtime.open_slot() for _ in range(12)]
    frames = [hops(len(batch), seed) for seed, batch in enumerate(batches)]
    for batch, of_batch in zip(batches, frames, strict=True):
        runtime.begin([mine[k] for k in batch], of_batch)
    for batch, of_batch, logits in zip(batches, frames, all_finished(runtime, len(batches)), strict=True):
        np.testing.assert_array_equal(logits, waited.step([theirs[k] for k in batch], of_batch))
    for slot, other in zip(mine, theirs, strict=True):
        for name, tensor in waited.save_slot(other).items():
            np.testing.assert_array_equal(runtime.save_slot(slot)[name], tensor)
        runtime.close_slot(slot)


def test_what_concerns_a_slot_waits_for_its_step(runtime: NativeRuntime, bundle: Bundle) -> None:
    waited = NativeRuntime(bundle, width=runtime.name.removeprefix("native-"))
    slots, others = [[each.open_slot() for _ in range(INITIAL_SLOTS)] for each in (runtime, waited)]
    for seed in range(20):
        runtime.begin(slots, hops(INITIAL_SLOTS, seed))
        waited.step(others, hops(INITIAL_SLOTS, seed))
    assert runtime.state_sizes(slots[0]) == waited.state_sizes(others[0])
    assert len(runtime.finished()) == 20
    runtime.begin(slots, hops(INITIAL_SLOTS))
    runtime.reset_slot(slots[1])
    initial = waited.save_slot(waited.open_slot())
    for name, tensor in runtime.save_slot(slots[1]).items():
        np.testing.assert_array_equal(tensor, initial[name])


def test_states_move_to_make_room_only_between_steps(runtime: NativeRuntime, bundle: Bundle) -> None:
    waited = NativeRuntime(bundle, width=runtime.name.removeprefix("native-"))
    for seed in range(6):  # each round doubles the room, with a step under way
        for each in (runtime, waited):
            for _ in range(INITIAL_SLOTS << seed if seed else INITIAL_SLOTS):
                each.open_slot()
        slots = list(range(INITIAL_SLOTS))
        runtime.begin(slots, hops(INITIAL_SLOTS, seed))
        waited.step(slots, hops(INITIAL_SLOTS, seed))
    for slot in range(INITIAL_SLOTS):
        for name, tensor in waited.save_slot(slot).items():
            np.testing.assert_array_equal(runtime.save_slot(slot)[name], tensor)


def test_a_step_that_does_not_fit_is_refused_and_takes_none_with_it(runtime: NativeRuntime) -> None:
    slot = runtime.open_slot()
    runtime.begin([slot], hops(1))
    with pytest.raises(SignalError, match="not open"):
        runtime.begin([slot + 1], hops(1))
    with pytest.raises(SignalError, match="frames have shape"):
        runtime.begin([slot], hops(2))
    runtime.begin([slot], hops(1))
    assert len(all_finished(runtime, 2)) == 2


def test_the_thread_ends_when_all_is_done_and_leaves_no_descriptor(bundle: Bundle) -> None:
    runtime = NativeRuntime(bundle)
    slot, before = runtime.open_slot(), len(list(Path("/dev/fd").iterdir()))
    for _ in range(3):
        runtime.begin([slot], hops(1))
        runtime.close_steps()
        assert len(list(Path("/dev/fd").iterdir())) == before


def test_several_threads_and_other_builds_are_stepped_by_a_thread_of_python(bundle: Bundle) -> None:
    assert NativeRuntime(bundle).can_begin
    assert not NativeRuntime(bundle, threads=2).can_begin


def test_a_process_may_end_with_steps_under_way(bundle: Bundle) -> None:
    script = (
        "import sys, numpy; from pathlib import Path; from edge.runtime.bundle import load_bundle\n"
        "from edge.runtime.native import NativeRuntime\n"
        "runtime = NativeRuntime(load_bundle(Path(sys.argv[1]))); slot = runtime.open_slot()\n"
        f"for _ in range(200): runtime.begin([slot], numpy.zeros((1, {HOP}, {LEADS}), numpy.float32))\n"
    )
    ended = subprocess.run([sys.executable, "-c", script, bundle.path], timeout=60, capture_output=True, check=False)
    assert (ended.returncode, ended.stderr) == (0, b"")
