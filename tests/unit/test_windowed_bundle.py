"""Windowed bundles: any network of the trainer's on the last ten seconds, hop by hop, through the device's own path."""

from __future__ import annotations

import itertools
import json
from pathlib import Path

import msgspec
import numpy as np
import onnxruntime
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.special import softmax

from edge.daemon.config import Config
from edge.daemon.doctor import check_model
from edge.errors import BundleError, RuntimeUnavailableError, SignalError
from edge.monitor.engine import ModelStream, score_hops
from edge.monitor.offline import score_recordings
from edge.monitor.path import StreamPath
from edge.runtime.bundle import load_bundle, write_manifest
from edge.runtime.manifest import ONNX_NAME
from edge.runtime.select import RUNTIMES, open_or_fall_back, open_runtime
from edge.runtime.windowed import WINDOWS_AT_ONCE, WindowedRuntime
from edge.signal.frontend import process_records
from edge.signal.leads import STANDARD_LEADS
from edge.stream.runs import Reset, Run
from export.bundle import graphs_of, write_bundle
from export.cli import main as export
from export.signals import synthetic_signals
from export.verify import one_thread, verify
from tests.ecg import millivolts, patient
from tests.tiny_bundle import tiny_bundle
from tests.windowed_bundles import trained_checkpoint, windowed_bundle, windowed_checkpoint
from trainer.checkpoint import load_checkpoint, model_from_bundle, save_checkpoint
from trainer.cli import main as trainer
from trainer.kinds import record_logits
from trainer.networks.registry import NETWORKS
from trainer.networks.windowed import Windowed
from trainer.ptbxl import CACHE_VARIABLE

TOLERANCE = 1e-4
WINDOW = 1000
SECONDS = 14
NO_WEIGHTS = "has no model.safetensors: a graph alone runs, but is no model of PyTorch's"


@pytest.fixture(autouse=True)
def _on_one_thread():
    with one_thread():
        yield


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("windowed")


@pytest.fixture(autouse=True)
def _cache(folder, monkeypatch):
    monkeypatch.setenv(CACHE_VARIABLE, str(folder / "cache"))


@pytest.fixture(scope="module")
def trained(folder):
    """What the trainer's own command made of a root in miniature, and that root."""
    with pytest.MonkeyPatch.context() as patched:
        patched.setenv(CACHE_VARIABLE, str(folder / "cache"))
        return trained_checkpoint(folder)


@pytest.fixture(scope="module")
def bundle(trained, folder):
    return write_bundle(trained[0], folder / "bundle", "small", "0.1")


@pytest.fixture(scope="module")
def runtime(bundle):
    return open_runtime(bundle)


@pytest.mark.parametrize("kind", NETWORKS)
def test_any_network_becomes_a_bundle_that_says_what_pytorch_says(kind, tmp_path):
    bundle = windowed_bundle(tmp_path / "bundle", kind)
    manifest = bundle.manifest
    assert (manifest.kind, manifest.window_s, manifest.hop_s) == ("windowed", 10.0, 1.0)
    assert set(manifest.files) == {"model.onnx", "model.safetensors"}
    parity = verify(bundle, synthetic_signals(manifest, 1, 10), "beats")
    assert parity.passed, parity
    assert next(r for r in parity.runtimes if r.runtime == "onnxruntime").stream_max_difference <= TOLERANCE


def test_the_graph_takes_whole_windows_any_number_of_them_and_is_the_same_each_time():
    network = windowed_checkpoint("resnet1d-wang").windowed_model()
    first, again = (graphs_of(windowed_checkpoint("resnet1d-wang"))["model.onnx"] for _ in range(2))
    assert first.SerializeToString(deterministic=True) == again.SerializeToString(deterministic=True)
    session = onnxruntime.InferenceSession(first.SerializeToString(), providers=["CPUExecutionProvider"])
    for windows in (1, 3):
        x = torch.randn(windows, WINDOW, 12)
        with torch.inference_mode():
            expected = network(x).numpy()
        np.testing.assert_allclose(session.run(["logits"], {"x": x.numpy()})[0], expected, rtol=0, atol=TOLERANCE)


def test_from_second_10_on_every_score_is_the_trainers_of_the_ten_seconds_before_it(trained, bundle, runtime):
    checkpoint, _ = trained
    recording = millivolts(patient(SECONDS, seed=3))
    (scores,) = score_recordings(runtime, [recording], 100)
    assert [score.ready for score in scores] == [False] * 9 + [True] * (SECONDS - 9)
    (seen,) = process_records(bundle.manifest.frontend(), recording[None])
    for second in range(10, SECONDS + 1):
        window = seen[100 * second - WINDOW : 100 * second]
        (expected,) = record_logits(checkpoint.model, window[None], checkpoint.windowed_model().crop_samples)
        np.testing.assert_allclose(scores[second - 1].logits, expected, rtol=0, atol=TOLERANCE)
    assert np.ptp([score.logits for score in scores[9:]], axis=0).min() > 0


def test_before_second_10_the_part_of_the_window_that_has_not_come_is_silence(trained, bundle, runtime):
    recording = millivolts(patient(4, seed=3))
    (scores,) = score_recordings(runtime, [recording], 100)
    (seen,) = process_records(bundle.manifest.frontend(), recording[None])
    window = np.concatenate([np.zeros((WINDOW - len(seen), 12), np.float32), seen])
    (expected,) = record_logits(trained[0].model, window[None], 250)
    np.testing.assert_allclose(scores[-1].logits, expected, rtol=0, atol=TOLERANCE)


@given(sizes=st.lists(st.integers(1, 400), min_size=1, max_size=30))
def test_any_chunking_gives_the_same_scores(runtime, sizes):
    recording = millivolts(patient(12, seed=4))
    manifest = runtime.bundle.manifest
    path, stream = StreamPath(manifest, 100, STANDARD_LEADS), ModelStream(runtime.open_slot())
    edges = [0, *np.minimum(np.cumsum(sizes), len(recording)), len(recording)]
    scores = []
    for begin, end in itertools.pairwise(edges):
        part = recording[begin:end]
        if len(part):
            run = Run(begin, part, np.zeros(part.shape, bool), Reset.START if begin == 0 else None)
            scores += [score for hop in path.push(run) for score in score_hops(runtime, [stream], [hop])]
    runtime.close_slot(stream.slot)
    (expected,) = score_recordings(runtime, [recording], 100)
    assert [score.ready for score in scores] == [score.ready for score in expected]
    assert np.array_equal([score.logits for score in scores], [score.logits for score in expected])


def test_a_batch_larger_than_one_run_keeps_streams_apart(runtime):
    streams = 2 * WINDOWS_AT_ONCE + 1
    frames = np.random.default_rng(0).standard_normal((streams, WINDOW, 12), dtype=np.float32)
    slots = [runtime.open_slot() for _ in range(streams)]
    together = runtime.step(slots, frames)
    alone = []
    for slot, own in zip(slots, frames, strict=True):
        runtime.reset_slot(slot)
        alone.append(runtime.step([slot], own[None])[0])
        runtime.close_slot(slot)
    np.testing.assert_allclose(together, alone, rtol=0, atol=1e-5)


def test_a_saved_stream_is_its_window_and_goes_on_in_another_runtime(bundle, runtime):
    frames = np.random.default_rng(1).standard_normal((1, 1300, 12), dtype=np.float32)
    slot = runtime.open_slot()
    runtime.step([slot], frames[:, :1200])
    state = runtime.save_slot(slot)
    assert np.array_equal(state["window"], frames[0, 200:1200])
    other = WindowedRuntime(bundle)
    elsewhere = other.open_slot()
    other.load_slot(elsewhere, state)
    expected = runtime.step([slot], frames[:, 1200:])
    assert np.array_equal(other.step([elsewhere], frames[:, 1200:]), expected)
    with pytest.raises(SignalError, match="shape"):
        other.load_slot(elsewhere, {"window": state["window"][1:]})
    with pytest.raises(SignalError, match="window"):
        other.load_slot(elsewhere, {"ssm_0": state["window"]})
    runtime.close_slot(slot)


def test_a_slot_that_is_used_again_remembers_nothing(runtime):
    frames = np.random.default_rng(2).standard_normal((1, 100, 12), dtype=np.float32)
    slot = runtime.open_slot()
    first = runtime.step([slot], frames)
    assert not np.array_equal(runtime.step([slot], frames), first)
    runtime.reset_slot(slot)
    assert np.array_equal(runtime.step([slot], frames), first)
    runtime.close_slot(slot)


def test_runtimes_for_recurrent_bundles_decline_in_one_line_and_onnxruntime_runs_instead(bundle, caplog):
    for name in RUNTIMES:
        if name == "onnxruntime":
            assert open_runtime(bundle, name).name == "onnxruntime"
            continue
        with pytest.raises(RuntimeUnavailableError, match="is windowed") as caught:
            open_runtime(bundle, name)
        assert "\n" not in str(caught.value)
        assert open_or_fall_back(bundle, name).name == "onnxruntime"
    assert "onnxruntime runs instead" in caplog.text


def test_doctor_finds_nothing_wrong_with_a_windowed_bundle(bundle):
    checks = check_model(Config.model_validate({"model": {"bundle": str(bundle.path)}}))
    assert {check.outcome for check in checks} == {"ok"}, checks


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"kind": "clairvoyant"}, "kind is clairvoyant, and this ecg-edge knows recurrent and windowed"),
        ({"state": []}, "window alone"),
        ({"window_s": 20.0}, "window alone"),
    ],
)
def test_a_manifest_that_is_not_of_a_known_kind_is_refused(bundle, tmp_path, changes, reason):
    write_manifest(tmp_path, msgspec.structs.replace(bundle.manifest, **changes))
    for file in bundle.manifest.files:
        (tmp_path / file).write_bytes((bundle.path / file).read_bytes())
    with pytest.raises(BundleError, match=reason):
        load_bundle(tmp_path)


def test_a_graph_of_the_other_kind_is_refused(bundle, tmp_path):
    recurrent = tiny_bundle(tmp_path / "recurrent")
    files = recurrent.manifest.files
    write_manifest(recurrent.path, msgspec.structs.replace(bundle.manifest, files=files))
    with pytest.raises(BundleError, match="unknown input ssm_0"):
        open_runtime(load_bundle(recurrent.path))


def test_a_windowed_bundle_of_a_network_that_is_not_the_trainers_runs_but_has_no_pytorch_model(bundle, tmp_path):
    for file in bundle.manifest.files:
        (tmp_path / file).write_bytes((bundle.path / file).read_bytes())
    write_manifest(tmp_path, msgspec.structs.replace(bundle.manifest, model={"architecture": "somebody else's"}))
    stranger = load_bundle(tmp_path)
    assert open_runtime(stranger).name == "onnxruntime"
    with pytest.raises(BundleError, match="none of the trainer's"):
        model_from_bundle(stranger)


def test_a_graph_and_a_manifest_are_a_windowed_bundle(bundle, trained, tmp_path, capsys):
    own = tmp_path / "own"
    own.mkdir()
    (own / ONNX_NAME).write_bytes(bundle.onnx_path.read_bytes())
    files = {ONNX_NAME: bundle.manifest.files[ONNX_NAME]}
    write_manifest(own, msgspec.structs.replace(bundle.manifest, files=files))
    alone, streams = load_bundle(own), np.zeros((1, 100, 12), np.float32)
    expected, got = (each.step([each.open_slot()], streams) for each in map(open_runtime, (bundle, alone)))
    assert np.array_equal(got, expected)
    assert trainer(["card", "--bundle", str(own), "--out", str(tmp_path / "card")]) == 0
    assert "| parameters |" not in (tmp_path / "card" / "MODEL_CARD.md").read_text()
    capsys.readouterr()
    for words in (["share", str(own), "--to", str(tmp_path / "shared")], ["evaluate", "--bundle", str(own), "--data"]):
        assert trainer([*words, str(trained[1])] if words[-1] == "--data" else words) == 2
        assert capsys.readouterr().err.splitlines()[-1].endswith(NO_WEIGHTS)
    assert export(["verify", str(own), "--seconds", "10"]) == 2
    assert capsys.readouterr().err.splitlines()[-1].endswith(NO_WEIGHTS)


def test_a_zero_phase_network_is_not_exported(tmp_path):
    with pytest.raises(BundleError, match="future"):
        write_bundle(windowed_checkpoint("simple-cnn-1d", signal={"filter": "zero_phase"}), tmp_path / "b", "b", "0.1")
    assert not (tmp_path / "b").exists()


def test_a_network_whose_crops_are_not_the_window_it_needs_is_not_exported(tmp_path):
    with pytest.raises(Exception, match="windows of 1000 samples and was given 500"):
        write_bundle(windowed_checkpoint("cardionet-xl", {"crop_s": 5.0}), tmp_path / "b", "b", "0.1")
    with pytest.raises(BundleError, match="how long its crops are"):
        write_bundle(windowed_checkpoint("simple-cnn-1d", {"crop_s": None}), tmp_path / "b", "b", "0.1")


def test_of_a_network_of_one_label_a_record_a_device_says_the_softmax(tmp_path, capsys):
    checkpoint = windowed_checkpoint("simple-cnn-1d", {"loss": "cross_entropy"})
    facts = checkpoint.facts
    save_checkpoint(
        tmp_path / "run", checkpoint.model, facts.preset, facts.signal, facts.classes, facts.leads, {}, facts.kind
    )
    assert export(["bundle", str(tmp_path / "run"), "--out", str(tmp_path / "b"), "--json"]) == 0
    (note,) = json.loads(capsys.readouterr().out)["notes"]
    assert "probabilities are a softmax's" in note
    bundle = load_bundle(tmp_path / "b")
    (scores,) = score_recordings(open_runtime(bundle), [millivolts(patient(12, seed=3))], 100)
    for score in scores:
        np.testing.assert_allclose(score.probabilities, softmax(score.logits.astype(np.float64)), rtol=1e-9)
    model = model_from_bundle(bundle)
    assert isinstance(model, Windowed)
    x = torch.randn(2, WINDOW, 12)
    with torch.inference_mode():
        expected = Windowed(load_checkpoint(tmp_path / "run").model, 250)(x)
        assert torch.equal(model(x), expected)


def test_it_is_exported_evaluated_and_tuned_by_the_same_commands_as_the_recurrent_one(trained, tmp_path, capsys):
    checkpoint, root = trained
    out = tmp_path / "bundle"

    def result_of(main, *words):
        assert main([*map(str, words), "--json"]) == 0, capsys.readouterr().err
        return json.loads(capsys.readouterr().out)

    exported = result_of(export, "bundle", checkpoint.path, "--out", out)
    assert (exported["kind"], exported["parity"]["passed"]) == ("windowed", True)
    assert load_bundle(out).manifest.name == "resnet1d-wang"
    batch, stream = (
        result_of(trainer, "evaluate", "--data", root, "--bundle", out, "--mode", mode) for mode in ("batch", "stream")
    )
    assert (batch["runtime"], stream["runtime"]) == ("pytorch", "onnxruntime")
    assert stream["macro_auc"] == pytest.approx(batch["macro_auc"], abs=1e-9)
    tuned = result_of(trainer, "tune", "--data", root, "--bundle", out)
    assert tuned["before"]["calibration"] != tuned["after"]["calibration"]
    manifest = load_bundle(out).manifest
    assert manifest.kind == "windowed"
    assert manifest.operating_points["MI"].on != 0.5
    assert result_of(export, "verify", out, "--streams", 1, "--seconds", 20)["passed"]


@pytest.mark.parametrize("words", [["verify", "--precision", "fp16", "--seconds", "10"], ["tensorrt"]])
def test_commands_that_are_for_recurrent_bundles_say_so(bundle, words, capsys):
    command, *rest = words
    assert export([command, str(bundle.path), *rest]) == 2
    assert "windowed" in capsys.readouterr().err


def test_its_state_cannot_be_monitored(bundle, trained, capsys):
    assert trainer(["monitor-state", "--data", str(trained[1]), "--bundle", str(bundle.path)]) == 2
    assert "carries no state to watch" in capsys.readouterr().err


def test_the_state_in_the_manifest_is_the_window(bundle):
    written = json.loads(Path(bundle.path, "manifest.json").read_text())
    assert [(tensor["name"], tensor["shape"]) for tensor in written["state"]] == [("window", [WINDOW, 12])]
