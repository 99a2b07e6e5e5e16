"""Other precisions of a graph: what is cast, what is not, how far results move, and that verify states it."""

from __future__ import annotations

import json
from pathlib import Path

import msgspec
import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, numpy_helper

from edge.errors import BundleError
from edge.runtime import select
from edge.runtime.bundle import Bundle, load_bundle, sha256_of, write_manifest
from edge.runtime.manifest import GRAPHS
from edge.runtime.onnx import OnnxRuntime
from edge.runtime.tensorrt.runtime import TensorRtRuntime
from export.cli import main
from export.graph import ExportError, recurrent_graph
from export.precision import PRECISIONS, add_float16_graph, bundle_in_precision, float16_graph, graph_bytes
from export.precision_table import LARGEST_FALL, LabelledRecords, precision_table
from export.signals import synthetic_signals
from export.verify import TOLERANCES, verify
from tests.fake_gpu.machine import Machine
from tests.fake_gpu.plug_in import build_engine_here, plug_in
from tests.random_models import CONFIGS, random_bundle, random_model
from tests.real_ptbxl import part_of_ptbxl
from trainer.model import ModelConfig
from trainer.ptbxl import open_ptbxl
from trainer.report import Sheet


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return random_bundle(tmp_path_factory.mktemp("bundles") / "bundle")


@pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS)
def test_float16_covers_every_projection_and_nothing_else(config: ModelConfig) -> None:
    before = recurrent_graph(random_model(config))
    after = float16_graph(before)
    inferred = onnx.shape_inference.infer_shapes(after).graph
    halves = {v.name for v in inferred.value_info if v.type.tensor_type.elem_type == TensorProto.FLOAT16}
    halves |= {tensor.name for tensor in after.graph.initializer if tensor.data_type == TensorProto.FLOAT16}
    for node in after.graph.node:
        touched = {*node.input, *node.output} & halves
        if node.op_type in ("MatMul", "Conv"):
            assert touched == {*node.input, *node.output}
        elif touched:
            assert node.op_type == "Cast"
    assert after.graph.input == before.graph.input
    assert after.graph.output == before.graph.output


@pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS)
def test_no_float32_copy_of_a_cast_weight_is_left(config: ModelConfig) -> None:
    model = float16_graph(recurrent_graph(random_model(config)))
    used = {name for node in model.graph.node for name in node.input}
    assert {tensor.name for tensor in model.graph.initializer} <= used


def test_weights_are_the_nearest_float16() -> None:
    before = recurrent_graph(random_model())
    after = float16_graph(before)
    halves = {t.name: numpy_helper.to_array(t) for t in after.graph.initializer if t.data_type == TensorProto.FLOAT16}
    full = {t.name: numpy_helper.to_array(t) for t in before.graph.initializer}
    assert halves
    for name, values in halves.items():
        np.testing.assert_array_equal(values, full[name.removesuffix("_16")].astype(np.float16))


@pytest.mark.parametrize("value", [1e5, float("nan")])
def test_a_weight_that_float16_cannot_hold_is_refused(value: float) -> None:
    model = random_model()
    with torch.no_grad():
        model.head.weight[0, 0] = value
    with pytest.raises(ExportError, match="too large for float16"):
        float16_graph(recurrent_graph(model))


def test_the_same_bundle_gives_the_same_float16_graph_again(bundle: Bundle, tmp_path: Path) -> None:
    other = random_bundle(tmp_path / "other")
    assert (other.path / GRAPHS["fp16"]).read_bytes() == (bundle.path / GRAPHS["fp16"]).read_bytes()
    assert add_float16_graph(other).manifest.files == bundle.manifest.files


def test_what_is_measured_is_what_the_bundle_ships() -> None:
    shipped = load_bundle()
    for precision, name in GRAPHS.items():
        assert graph_bytes(shipped, precision) == (shipped.path / name).read_bytes()


def test_a_bundle_in_another_precision_runs_as_any_other(bundle: Bundle, tmp_path: Path) -> None:
    frames = np.random.default_rng(0).standard_normal((2, 100, 12), dtype=np.float32)
    logits = {}
    for precision in PRECISIONS:
        runtime = OnnxRuntime(bundle_in_precision(bundle, precision, tmp_path / precision))
        logits[precision] = runtime.step([runtime.open_slot(), runtime.open_slot()], frames)
    assert 0 < np.abs(logits["fp16"] - logits["fp32"]).max() <= TOLERANCES["fp16"]
    assert np.abs(logits["int8"] - logits["fp32"]).max() > 0


def test_in_int8_a_stream_s_score_depends_on_its_neighbours_which_is_why_it_is_not_shipped(
    bundle: Bundle, tmp_path: Path
) -> None:
    """Dynamic quantisation scales a whole batch by its largest value: one loud stream blurs the others."""
    quiet = np.random.default_rng(0).standard_normal((1, 100, 12), dtype=np.float32)
    both = np.concatenate([quiet, 200 * quiet])
    moved = {}
    for precision in PRECISIONS:
        runtime = OnnxRuntime(bundle_in_precision(bundle, precision, tmp_path / precision))
        alone = runtime.step([runtime.open_slot()], quiet)[0]
        beside = runtime.step([runtime.open_slot(), runtime.open_slot()], both)[0]
        moved[precision] = np.abs(alone - beside).max()
    assert moved["int8"] > 100 * max(moved["fp32"], moved["fp16"])


def test_the_table_states_differences_and_sizes_and_leaves_int8_undecided_without_records(bundle: Bundle) -> None:
    table = precision_table(bundle, list(PRECISIONS), synthetic_signals(bundle.manifest, 2, 20), "beats", None)
    fp32, fp16, int8 = table.precisions
    assert [row.precision for row in table.precisions] == ["fp32", "fp16", "int8"]
    assert fp32.max_difference <= TOLERANCES["fp32"] < fp16.max_difference <= TOLERANCES["fp16"]
    assert (fp32.passed, fp16.passed, int8.passed) == (True, True, None)
    assert int8.tolerance is None
    assert fp32.graph_bytes > fp16.graph_bytes
    assert table.passed


def test_real_ecg_in_float16_keeps_its_logits_and_macro_auc(bundle: Bundle, ptbxl_root: Path, tmp_path: Path) -> None:
    part = part_of_ptbxl(ptbxl_root, tmp_path / "part", {9: 200})
    records = LabelledRecords(open_ptbxl(part, tmp_path / "cache"), [9])
    table = precision_table(load_bundle(), ["fp16"], synthetic_signals(bundle.manifest, 2, 20), "beats", records)
    fp32, fp16 = table.precisions
    assert fp32.macro_auc is not None
    assert fp32.macro_auc > 0.85
    assert fp16.records_max_difference is not None
    assert fp16.records_max_difference <= TOLERANCES["fp16"]
    assert fp16.macro_auc_change is not None
    assert abs(fp16.macro_auc_change) <= LARGEST_FALL
    assert table.passed


def test_a_graph_that_moves_too_far_fails(tmp_path: Path) -> None:
    bundle = random_bundle(tmp_path / "bundle")
    path = bundle.path / GRAPHS["fp16"]
    model = onnx.load(path)
    for tensor in model.graph.initializer:
        if tensor.data_type == TensorProto.FLOAT16:
            tensor.CopyFrom(numpy_helper.from_array(np.round(numpy_helper.to_array(tensor), 1), tensor.name))
    path.write_bytes(model.SerializeToString())
    files = bundle.manifest.files | {path.name: sha256_of(bundle.path, path.name)}
    write_manifest(bundle.path, msgspec.structs.replace(bundle.manifest, files=files))
    coarse = load_bundle(bundle.path)
    table = precision_table(coarse, ["fp16"], synthetic_signals(bundle.manifest, 1, 10), "beats", None)
    assert not table.passed


def test_verify_allows_a_float16_runtime_what_float16_costs_and_no_more(
    bundle: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plug_in(monkeypatch, Machine(sm=(7, 5), float32_products=False), tmp_path)
    build_engine_here(bundle)
    monkeypatch.setattr(select, "RUNTIMES", {"tensorrt": TensorRtRuntime})
    monkeypatch.setattr("export.verify.RUNTIMES", select.RUNTIMES)
    parity = verify(bundle, synthetic_signals(bundle.manifest, 2, 20), "beats")
    (_, tensorrt) = parity.runtimes
    assert tensorrt.passed
    assert tensorrt.cold_max_difference is not None
    assert TOLERANCES["fp32"] < tensorrt.cold_max_difference <= tensorrt.tolerance == TOLERANCES["fp16"]


def test_verify_prints_the_table_which_a_card_takes_and_exits_by_it(
    bundle: Bundle, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["verify", str(bundle.path), "--seconds", "10", "--streams", "1", "--precision"]
    assert main([*arguments, "all", "--json"]) == 0
    result = json.loads(capsys.readouterr().out)
    assert [row["precision"] for row in result["precisions"]] == ["fp32", "fp16", "int8"]
    assert (result["passed"], result["records"]) == (True, 0)
    sheet = msgspec.convert(result, Sheet)
    assert [row[0] for row in sheet.rows] == ["fp32", "fp16", "int8"]
    assert {len(row) for row in sheet.rows} == {len(sheet.columns)}
    assert sheet.command == "ecg-export verify BUNDLE --precision all"
    assert main([*arguments, "fp16"]) == 0
    out = capsys.readouterr().out
    assert "fp16" in out
    assert "int8" not in out


def test_a_bundle_without_the_float16_graph_gets_it(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    bundle = random_bundle(tmp_path / "bundle")
    manifest, name = bundle.manifest, GRAPHS["fp16"]
    expected = (bundle.path / name).read_bytes()
    (bundle.path / name).unlink()
    files = {file: digest for file, digest in manifest.files.items() if file != name}
    write_manifest(bundle.path, msgspec.structs.replace(manifest, files=files))
    assert main(["precision", str(bundle.path), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["files"] == manifest.files
    assert (bundle.path / name).read_bytes() == expected
    assert load_bundle(bundle.path).manifest.files[name] == sha256_of(bundle.path, name)


def test_a_graph_that_cannot_be_written_leaves_a_bundle_that_loads(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bundle, name = random_bundle(tmp_path / "bundle"), GRAPHS["fp16"]
    (bundle.path / name).write_bytes(b"an older exporter's")
    files = bundle.manifest.files | {name: sha256_of(bundle.path, name)}
    write_manifest(bundle.path, msgspec.structs.replace(bundle.manifest, files=files))
    older = load_bundle(bundle.path)

    write = Path.write_bytes

    def full(file: Path, content: bytes) -> int:
        if name not in file.name:
            return write(file, content)
        write(file, content[: len(content) // 2])
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(BundleError, match="cannot be written: No space left on device"):
        add_float16_graph(older)
    assert name not in load_bundle(bundle.path).manifest.files
    assert not list(bundle.path.glob(".*"))
    monkeypatch.undo()
    assert add_float16_graph(load_bundle(bundle.path)).manifest.files == bundle.manifest.files


def test_a_graph_that_was_there_is_replaced_and_never_half_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bundle = random_bundle(tmp_path / "bundle")
    replace, moments = Path.replace, list[str]()

    def looked_at(file: Path, target: Path) -> Path:
        load_bundle(bundle.path)
        moved = replace(file, target)
        load_bundle(bundle.path)
        moments.append(target.name)
        return moved

    (bundle.path / GRAPHS["fp16"]).write_bytes(b"an older exporter's")
    files = bundle.manifest.files | {GRAPHS["fp16"]: sha256_of(bundle.path, GRAPHS["fp16"])}
    write_manifest(bundle.path, msgspec.structs.replace(bundle.manifest, files=files))
    older = load_bundle(bundle.path)
    monkeypatch.setattr(Path, "replace", looked_at)
    add_float16_graph(older)
    assert moments == ["manifest.json", GRAPHS["fp16"], "manifest.json"]
