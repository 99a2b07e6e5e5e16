"""The exporter: graphs equal PyTorch, bundles are written whole or not at all, verify notices a difference."""

from __future__ import annotations

import json
import stat
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import msgspec
import numpy as np
import onnx
import onnxruntime
import pytest
import torch

from edge.errors import BundleError
from edge.runtime.bundle import Bundle, load_bundle, read_manifest, sha256_of, write_manifest
from edge.runtime.manifest import ONNX_NAME, WEIGHTS_NAME
from export.bundle import write_bundle
from export.cli import main
from export.graph import ExportError, recurrent_graph
from export.signals import synthetic_signals, wfdb_signals
from export.verify import TOLERANCE, Parity, RuntimeParity, one_thread, verify
from tests.random_models import CONFIGS, SMALL, random_bundle, random_model
from tests.tiny_bundle import tiny_checkpoint
from trainer.checkpoint import load_checkpoint, save_checkpoint
from trainer.model import EcgMamba, ModelConfig, state_layout

STREAMS = 3


@pytest.fixture(autouse=True)
def _on_one_thread() -> Iterator[None]:
    with one_thread():
        yield


WITHOUT_PEAKS = {name: config for name, config in CONFIGS.items() if config.pooling != "mean+peaks"}
"""The mean of hops' maxima takes a pass for a hop, however long it is."""


@pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS)
def test_the_graph_equals_pytorch_in_logits_and_states_whatever_the_length_of_the_chunks(config: ModelConfig) -> None:
    model = random_model(config)
    session = session_of(recurrent_graph(model))
    state = model.initial_state(STREAMS)
    carried = {name: tensor.numpy() for name, tensor in state.items()}
    for samples in (config.hop_samples, config.hop_samples, config.window_samples, config.stride, config.hop_samples):
        x = torch.randn(STREAMS, samples, config.n_leads)
        with torch.inference_mode():
            expected, state = model(x, state)
        logits, *states = session.run(None, {"x": x.numpy(), **carried})
        carried = dict(zip(carried, states, strict=True))
        np.testing.assert_allclose(logits, expected.numpy(), rtol=0, atol=TOLERANCE)
        for name, tensor in state.items():
            np.testing.assert_allclose(carried[name], tensor.numpy(), rtol=1e-4, atol=TOLERANCE, err_msg=name)


@pytest.mark.parametrize("config", WITHOUT_PEAKS.values(), ids=WITHOUT_PEAKS)
def test_what_is_pooled_in_one_pass_and_hop_by_hop_ends_at_the_same_logits(config: ModelConfig) -> None:
    model = random_model(config)
    session = session_of(recurrent_graph(model))
    hops = config.pool_slots + 1
    x = np.random.default_rng(1).standard_normal((2, hops * config.hop_samples, config.n_leads), dtype=np.float32)
    start = {name: tensor.numpy() for name, tensor in model.initial_state(2).items()}
    whole = session.run(["logits"], {"x": x, **start})[0]
    state = start
    for hop in np.split(x, hops, axis=1):
        logits, *states = session.run(None, {"x": hop, **state})
        state = dict(zip(state, states, strict=True))
    np.testing.assert_allclose(logits, whole, rtol=0, atol=TOLERANCE)


def test_the_graph_survives_step_sizes_that_overflow_sums_in_log_space() -> None:
    model = random_model()
    with torch.no_grad():
        for block in model.blocks:
            block.dt_proj.bias.fill_(80.0)
    x = torch.randn(1, SMALL.window_samples, SMALL.n_leads)
    state = {name: tensor.numpy() for name, tensor in model.initial_state(1).items()}
    logits = session_of(recurrent_graph(model)).run(["logits"], {"x": x.numpy(), **state})[0]
    with torch.inference_mode():
        np.testing.assert_allclose(logits, model(x)[0].numpy(), rtol=1e-4, atol=TOLERANCE)


@pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS)
def test_the_graph_has_one_scan_per_layer_without_matrix_products_and_names_the_states(config: ModelConfig) -> None:
    graph = recurrent_graph(random_model(config)).graph
    scans = [node for node in graph.node if node.op_type == "Scan"]
    bodies = [attribute.g for scan in scans for attribute in scan.attribute if attribute.name == "body"]
    assert len(bodies) == config.n_layers
    assert {node.op_type for body in bodies for node in body.node} == {"Mul", "Exp", "Add", "ReduceSum"}
    names = list(state_layout(config))
    assert [value.name for value in graph.input] == ["x", *names]
    assert [value.name for value in graph.output] == ["logits", *(f"{name}_out" for name in names)]
    batch, samples, _ = graph.input[0].type.tensor_type.shape.dim
    assert batch.dim_param == "batch"
    assert samples.dim_param == "samples"


def test_the_graph_can_be_read_by_the_oldest_parser_it_is_meant_for() -> None:
    model = recurrent_graph(random_model())
    assert model.ir_version <= 10, "TensorRT 10.3 is built with ONNX 1.16"
    assert [entry.version for entry in model.opset_import] == [17]
    assert not {"CumSum", "Log", "Loop"} & {node.op_type for node in model.graph.node}


def test_the_same_weights_give_the_same_file() -> None:
    first, second = (recurrent_graph(random_model()).SerializeToString(deterministic=True) for _ in range(2))
    assert first == second


@pytest.mark.parametrize("config", [replace(SMALL, hop_samples=1000), replace(SMALL, d_conv=1)])
def test_a_model_without_state_to_carry_is_refused(config: ModelConfig) -> None:
    with pytest.raises(ExportError, match="at least"):
        recurrent_graph(EcgMamba(config))


def test_a_bundle_holds_what_its_manifest_says(tmp_path: Path) -> None:
    bundle = random_bundle(tmp_path / "new" / "bundle")
    manifest = load_bundle(bundle.path).manifest
    assert manifest.files == {
        name: sha256_of(bundle.path, name) for name in (ONNX_NAME, "model_fp16.onnx", WEIGHTS_NAME)
    }
    assert {tensor.name: tuple(tensor.shape) for tensor in manifest.state} == {
        name: shape for name, (shape, _) in state_layout(SMALL).items()
    }
    assert (manifest.window_s, manifest.hop_s, manifest.stride) == (10.0, 1.0, 4)
    assert {(point.on, point.off, point.dwell_s) for point in manifest.operating_points.values()} == {(0.5, 0.4, 3.0)}
    assert set(manifest.calibration.scale) == {1.0}
    assert set(manifest.calibration.bias) == {0.0}
    assert manifest.training["folds"] == [1, 2, 3, 4, 5, 6, 7, 8]


def test_every_file_of_a_bundle_can_be_read_by_the_daemon_s_own_user(tmp_path: Path) -> None:
    bundle = random_bundle(tmp_path / "bundle")
    assert all(path.stat().st_mode & stat.S_IROTH for path in [bundle.path, *bundle.path.iterdir()])


def test_exporting_again_replaces_the_bundle_and_leaves_nothing_beside_it(tmp_path: Path) -> None:
    first = random_bundle(tmp_path / "bundle", seed=1)
    second = random_bundle(tmp_path / "bundle", seed=2)
    assert first.manifest.model_hash != second.manifest.model_hash
    assert load_bundle(tmp_path / "bundle").manifest == second.manifest
    assert [path.name for path in tmp_path.iterdir()] == ["bundle"]


def test_a_folder_that_is_no_bundle_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "thesis").mkdir()
    (tmp_path / "thesis" / "chapter-1.txt").write_text("years of work")
    with pytest.raises(BundleError, match="no bundle"):
        random_bundle(tmp_path / "thesis")
    assert (tmp_path / "thesis" / "chapter-1.txt").read_text() == "years of work"


def test_an_export_that_fails_leaves_the_bundle_that_was_there(tmp_path: Path) -> None:
    before = random_bundle(tmp_path / "bundle")
    with pytest.raises(BundleError, match="name"):
        write_bundle(tiny_checkpoint(), tmp_path / "bundle", "a name with spaces", "0.1")
    assert load_bundle(tmp_path / "bundle").manifest == before.manifest
    assert [path.name for path in tmp_path.iterdir()] == ["bundle"]


@pytest.mark.parametrize("name", ["streaming", "seed", "votes-of-two-hops"])
def test_runtimes_agree_on_real_ecg(name: str, tmp_path: Path, ptbxl_root: Path) -> None:
    bundle = random_bundle(tmp_path / "bundle", CONFIGS[name])
    headers = sorted((ptbxl_root / "records100").glob("*/*_lr.hea"))[:8]
    parity = verify(bundle, wfdb_signals(bundle.manifest, headers, 4, 30), "PTB-XL")
    assert parity.passed, parity
    assert parity.cold_windows == 12


def test_verify_notices_a_graph_made_of_other_weights(tmp_path: Path) -> None:
    bundle = random_bundle(tmp_path / "bundle")
    parity = verify(with_graph(bundle, recurrent_graph(random_model(seed=1))), signals_for(bundle), "beats")
    onnx_parity = parity_of(parity, "onnxruntime")
    assert parity_of(parity, "pytorch").passed
    assert not onnx_parity.passed
    assert onnx_parity.cold_max_difference is not None
    assert onnx_parity.cold_max_difference > TOLERANCE
    assert not parity.passed


def test_verify_notices_logits_that_are_not_numbers(tmp_path: Path) -> None:
    bundle = random_bundle(tmp_path / "bundle")
    broken = random_model()
    with torch.no_grad():
        broken.head.bias[0] = float("nan")
    parity = verify(with_graph(bundle, recurrent_graph(broken)), signals_for(bundle), "beats")
    assert not parity_of(parity, "onnxruntime").passed


def test_the_commands_export_a_checkpoint_and_verify_the_bundle(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    checkpoint = tiny_checkpoint()
    facts = checkpoint.facts
    save_checkpoint(
        tmp_path / "run",
        checkpoint.model,
        {},
        facts.signal,
        facts.classes,
        facts.leads,
        {"command": "ecg-trainer train"},
    )
    out = str(tmp_path / "bundle")
    assert main(["bundle", str(tmp_path / "run"), "--out", out, "--name", "mine", "--version", "2.0", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["parity"]["passed"] is True
    manifest = read_manifest(tmp_path / "bundle")
    assert (manifest.name, manifest.version) == ("mine", "2.0")
    assert manifest.training["command"] == "ecg-trainer train"

    assert main(["verify", out, "--streams", "2", "--seconds", "20", "--json"]) == 0
    result = json.loads(capsys.readouterr().out)
    found = {runtime["runtime"]: runtime for runtime in result["runtimes"]}
    assert found["pytorch"]["states_finite"] is found["onnxruntime"]["states_finite"] is True
    assert "on a Jetson apt install" in found["tensorrt"]["problem"] or found["tensorrt"]["installed"]
    assert main(["verify", out, "--seconds", "20"]) == 0
    assert "pass" in capsys.readouterr().out


def test_verify_exits_1_for_a_runtime_that_differs_and_2_for_a_bundle_it_cannot_open(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bundle = random_bundle(tmp_path / "bundle")
    with_graph(bundle, recurrent_graph(random_model(seed=1)))
    assert main(["verify", str(bundle.path), "--seconds", "10"]) == 1
    assert "FAIL" in capsys.readouterr().out
    bundle.onnx_path.write_bytes(b"not a graph")
    assert main(["verify", str(bundle.path)]) == 2
    assert "refused" in capsys.readouterr().err


def test_a_checkpoint_survives_the_way_to_a_bundle_bit_by_bit(tmp_path: Path) -> None:
    checkpoint = tiny_checkpoint()
    facts = checkpoint.facts
    save_checkpoint(tmp_path / "run", checkpoint.model, {}, facts.signal, facts.classes, facts.leads, {})
    bundle = write_bundle(load_checkpoint(tmp_path / "run"), tmp_path / "bundle", "tiny", "0.1")
    weights = (tmp_path / "run" / WEIGHTS_NAME).read_bytes()
    assert bundle.weights_path.read_bytes() == weights


def parity_of(parity: Parity, runtime: str) -> RuntimeParity:
    return next(each for each in parity.runtimes if each.runtime == runtime)


def session_of(model: onnx.ModelProto) -> onnxruntime.InferenceSession:
    return onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])


def signals_for(bundle: Bundle) -> np.ndarray:
    return synthetic_signals(bundle.manifest, 2, 20)


def with_graph(bundle: Bundle, model: onnx.ModelProto) -> Bundle:
    """Put another graph into a bundle, with its hash."""
    bundle.onnx_path.write_bytes(model.SerializeToString())
    files = bundle.manifest.files | {ONNX_NAME: sha256_of(bundle.path, ONNX_NAME)}
    write_manifest(bundle.path, msgspec.structs.replace(bundle.manifest, files=files))
    return load_bundle(bundle.path)


def test_verify_notices_a_graph_that_forgets_between_hops(tmp_path):
    bundle = random_bundle(tmp_path / "bundle")
    model = recurrent_graph(random_model())
    name = "ssm_0"
    for node in model.graph.node:
        node.input[:] = ["forgotten" if each == name else each for each in node.input]
    model.graph.initializer.append(onnx.numpy_helper.from_array(np.zeros(1, np.float32), "nothing"))
    model.graph.node.insert(0, onnx.helper.make_node("Mul", [name, "nothing"], ["forgotten"]))
    onnx_parity = parity_of(verify(with_graph(bundle, model), signals_for(bundle), "beats"), "onnxruntime")
    assert onnx_parity.cold_max_difference <= TOLERANCE < onnx_parity.stream_max_difference
    assert not onnx_parity.passed
