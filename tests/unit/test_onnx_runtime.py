"""ONNX Runtime behind the Runtime protocol: equal to PyTorch, streams kept apart, damaged bundles refused."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import msgspec
import numpy as np
import onnx
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from edge.errors import BundleError, EcgEdgeError, RuntimeUnavailableError, SignalError
from edge.runtime import select
from edge.runtime.base import Runtime
from edge.runtime.bundle import Bundle, load_bundle, sha256_of
from edge.runtime.manifest import ONNX_NAME, StateTensor
from edge.runtime.onnx import OnnxRuntime
from edge.runtime.select import available_runtimes, open_runtime
from export.signals import synthetic_signals
from export.verify import one_thread
from tests.random_models import SMALL, random_bundle
from trainer.checkpoint import model_from_bundle

HOP = SMALL.hop_samples
LEADS = SMALL.n_leads
TOLERANCE = 1e-4
CLOSE = 1e-5
"""Matrix products of other batch sizes round differently, no more."""


@pytest.fixture(autouse=True)
def _on_one_thread() -> Iterator[None]:
    with one_thread():
        yield


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return random_bundle(tmp_path_factory.mktemp("bundles") / "bundle")


@pytest.fixture
def runtime(bundle: Bundle) -> Runtime:
    return OnnxRuntime(bundle)


def test_the_runtime_equals_pytorch_at_every_hop_and_after_a_hundred_thousand_samples(bundle: Bundle) -> None:
    hops = 1100
    frames = synthetic_signals(bundle.manifest, 2, hops * HOP / 100)
    assert frames.shape[1] > 10**5
    runtime, model = OnnxRuntime(bundle), model_from_bundle(bundle)
    slots = open_slots(runtime, 2)
    state = model.initial_state(2)
    for k in range(hops):
        hop = frames[:, k * HOP : (k + 1) * HOP]
        with torch.inference_mode():
            expected, state = model(torch.from_numpy(hop), state)
        np.testing.assert_allclose(
            runtime.step(slots, hop), expected.numpy(), rtol=0, atol=TOLERANCE, err_msg=f"hop {k}"
        )
    for row, slot in enumerate(slots):
        for name, tensor in runtime.save_slot(slot).items():
            assert np.isfinite(tensor).all()
            np.testing.assert_allclose(tensor, state[name][row].numpy(), rtol=1e-3, atol=TOLERANCE, err_msg=name)


@settings(max_examples=20, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(companions=st.lists(st.integers(0, 5), min_size=6, max_size=6), place=st.integers(0, 5))
def test_a_stream_does_not_notice_who_shares_its_batch(runtime: Runtime, companions: list[int], place: int) -> None:
    alone, mine, *others = open_slots(runtime, 7)
    for k, count in enumerate(companions):
        hop = hop_of(k)
        batch = others[:count]
        batch.insert(place, mine)
        frames = np.stack([hop if slot == mine else 50 * hop_of(1000 + slot) for slot in batch])
        row = batch.index(mine)
        expected = runtime.step([alone], hop[None])[0]
        np.testing.assert_allclose(runtime.step(batch, frames)[row], expected, rtol=0, atol=CLOSE)
    close_slots(runtime, [alone, mine, *others])


def test_a_stream_of_nonsense_does_not_reach_the_others(runtime: Runtime) -> None:
    sick, well, alone = open_slots(runtime, 3)
    for k in range(3):
        nonsense = np.full((HOP, LEADS), np.nan, dtype=np.float32)
        logits = runtime.step([sick, well], np.stack([nonsense, hop_of(k)]))
        np.testing.assert_allclose(logits[1], runtime.step([alone], hop_of(k)[None])[0], rtol=0, atol=CLOSE)
    runtime.reset_slot(sick)
    assert np.isfinite(runtime.step([sick], hop_of(0)[None])).all()


def test_a_slot_that_was_reset_or_used_before_starts_clean(runtime: Runtime) -> None:
    (slot,) = open_slots(runtime, 1)
    fresh = runtime.step([slot], hop_of(1)[None])
    runtime.step([slot], hop_of(2)[None])
    runtime.reset_slot(slot)
    np.testing.assert_array_equal(runtime.step([slot], hop_of(1)[None]), fresh)
    runtime.close_slot(slot)
    assert runtime.open_slot() == slot
    np.testing.assert_array_equal(runtime.step([slot], hop_of(1)[None]), fresh)


def test_streams_keep_their_state_when_more_come_than_there_was_room_for(runtime: Runtime) -> None:
    early = open_slots(runtime, 2)
    runtime.step(early, np.stack([hop_of(0), hop_of(1)]))
    before = [runtime.save_slot(slot) for slot in early]
    late = open_slots(runtime, 100)
    assert len({*early, *late}) == 102
    for slot, state in zip(early, before, strict=True):
        for name, tensor in runtime.save_slot(slot).items():
            np.testing.assert_array_equal(tensor, state[name])


def test_a_saved_state_goes_on_in_another_process_s_runtime(bundle: Bundle, runtime: Runtime) -> None:
    (slot,) = open_slots(runtime, 1)
    runtime.step([slot], hop_of(0)[None])
    saved = runtime.save_slot(slot)
    expected = runtime.step([slot], hop_of(1)[None])
    other = OnnxRuntime(bundle)
    _, there = open_slots(other, 2)
    other.load_slot(there, saved)
    np.testing.assert_array_equal(other.step([there], hop_of(1)[None]), expected)


def test_two_threads_give_what_one_gives(bundle: Bundle, runtime: Runtime) -> None:
    parallel = OnnxRuntime(bundle, threads=2)
    frames = np.stack([hop_of(k) for k in range(8)])
    ours, theirs = open_slots(runtime, 8), open_slots(parallel, 8)
    np.testing.assert_allclose(parallel.step(theirs, frames), runtime.step(ours, frames), rtol=0, atol=CLOSE)


def test_a_step_of_no_streams_is_nothing(runtime: Runtime) -> None:
    assert runtime.step([], np.empty((0, HOP, LEADS), dtype=np.float32)).shape == (0, 5)


@pytest.mark.parametrize(
    "shape", [(1, HOP, LEADS - 1), (2, HOP, LEADS), (1, HOP + 1, LEADS), (1, 0, LEADS), (HOP, LEADS)]
)
def test_frames_that_do_not_fit_are_refused_and_leave_the_state(runtime: Runtime, shape: tuple[int, ...]) -> None:
    (slot,) = open_slots(runtime, 1)
    with pytest.raises(SignalError, match="frames have shape"):
        runtime.step([slot], np.ones(shape, dtype=np.float32))
    assert not runtime.save_slot(slot)["pool_count"].any()


def test_a_slot_named_twice_in_a_step_is_refused(runtime: Runtime) -> None:
    (slot,) = open_slots(runtime, 1)
    with pytest.raises(SignalError, match="twice"):
        runtime.step([slot, slot], np.zeros((2, HOP, LEADS), dtype=np.float32))


def test_a_graph_that_was_changed_after_the_bundle_was_opened_is_refused(tmp_path: Path) -> None:
    bundle = random_bundle(tmp_path / "bundle")
    graph = bytearray(bundle.onnx_path.read_bytes())
    graph[len(graph) // 2] ^= 1
    bundle.onnx_path.write_bytes(graph)
    with pytest.raises(BundleError, match=r"model\.onnx has changed"):
        OnnxRuntime(bundle)
    with pytest.raises(BundleError, match="refused"):
        load_bundle(bundle.path)


def test_a_graph_that_cannot_be_parsed_is_an_error_of_the_bundle(tmp_path: Path) -> None:
    bundle = random_bundle(tmp_path / "bundle")
    unknown = onnx.helper.make_node("Oscillate", ["x"], ["y"])
    graphs = {
        b"not a graph": r"model\.onnx cannot be read: it is no ONNX file",
        bundle.onnx_path.read_bytes()[:-1]: r"model\.onnx cannot be read: it ends within a field",
        onnx.ModelProto(graph=onnx.GraphProto(node=[unknown])).SerializeToString(): "cannot be loaded by ONNX Runtime",
        b"": "cannot be loaded by ONNX Runtime",
    }
    for graph, said in graphs.items():
        bundle.onnx_path.write_bytes(graph)
        files = bundle.manifest.files | {ONNX_NAME: sha256_of(bundle.path, ONNX_NAME)}
        with pytest.raises(BundleError, match=said):
            OnnxRuntime(changed(bundle, files=files))


def test_a_graph_and_a_manifest_that_disagree_are_refused_with_the_difference_named(bundle: Bundle) -> None:
    manifest = bundle.manifest
    wider = [StateTensor(t.name, [s + 1 for s in t.shape]) if t.name == "ssm_1" else t for t in manifest.state]
    with pytest.raises(BundleError, match=r"input ssm_1 is tensor\(float\) .*, the manifest says float32"):
        OnnxRuntime(changed(bundle, state=wider))
    with pytest.raises(BundleError, match=r"input stern is missing from the graph.*unknown input stem"):
        OnnxRuntime(
            changed(bundle, state=[msgspec.structs.replace(manifest.state[0], name="stern"), *manifest.state[1:]])
        )
    with pytest.raises(BundleError, match="unknown output pool_max_out"):
        OnnxRuntime(changed(bundle, state=manifest.state[:-1]))
    with pytest.raises(BundleError, match="input x is"):
        OnnxRuntime(changed(bundle, leads=manifest.leads[:8]))
    with pytest.raises(BundleError, match="output logits is"):
        OnnxRuntime(changed(bundle, classes=manifest.classes[:4]))


def test_a_runtime_is_chosen_by_name_or_by_what_works(bundle: Bundle) -> None:
    assert open_runtime(bundle).name == open_runtime(bundle, next(iter(select.RUNTIMES))).name
    assert open_runtime(bundle, "onnxruntime", threads=2).bundle is bundle
    assert ("onnxruntime", None) in available_runtimes(bundle)
    with pytest.raises(RuntimeUnavailableError, match=r"no such runtime; there are auto, .*onnxruntime"):
        open_runtime(bundle, "abacus")


def test_a_missing_onnx_runtime_is_reported_with_what_to_do(bundle: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    monkeypatch.setattr(select, "RUNTIMES", {"onnxruntime": OnnxRuntime})
    ((name, problem),) = available_runtimes(bundle)
    assert name == "onnxruntime"
    assert problem is not None
    assert "pip install onnxruntime" in problem
    for kind in ("auto", "onnxruntime"):
        with pytest.raises(EcgEdgeError, match="not available"):
            open_runtime(bundle, kind)


def hop_of(seed: int) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal((HOP, LEADS), dtype=np.float32)


def open_slots(runtime: Runtime, count: int) -> list[int]:
    return [runtime.open_slot() for _ in range(count)]


def close_slots(runtime: Runtime, slots: Sequence[int]) -> None:
    for slot in slots:
        runtime.close_slot(slot)


def changed(bundle: Bundle, **changes: object) -> Bundle:
    return Bundle(bundle.path, msgspec.structs.replace(bundle.manifest, **changes))
