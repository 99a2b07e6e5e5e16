"""Graphs whose weights lie elsewhere: refused in one line by whatever would read them, wherever in them that stands."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import msgspec
import numpy as np
import onnx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper
from onnx.external_data_helper import convert_model_to_external_data

from edge.errors import BundleError, RuntimeUnavailableError
from edge.runtime.bundle import Bundle, load_bundle, sha256_of, write_manifest
from edge.runtime.graph_file import CHILDREN, DEEPEST, has_external_data, read_graph
from edge.runtime.manifest import GRAPHS
from edge.runtime.onnx import OnnxRuntime
from edge.runtime.tensorrt.cache import EngineCache
from edge.runtime.tensorrt.device import CudaDevice
from edge.runtime.tensorrt.engine import Engines, import_tensorrt
from export.precision import add_float16_graph
from tests.fake_gpu.machine import Machine
from tests.fake_gpu.plug_in import plug_in
from tests.tiny_bundle import tiny_bundle

ELSEWHERE = r"keeps weights in a file of its own, which no hash covers; save the graph with its weights inside"


@pytest.fixture
def scattered(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Bundle:
    """A bundle whose graphs keep their weights in a file that is there, read from the folder they stand in."""
    bundle = tiny_bundle(tmp_path / "bundle")
    for name in GRAPHS.values():
        model = onnx.load(bundle.path / name)
        convert_model_to_external_data(model, location="weights.bin", size_threshold=64)
        onnx.save(model, bundle.path / name)
    files = {name: sha256_of(bundle.path, name) for name in bundle.manifest.files}
    write_manifest(bundle.path, msgspec.structs.replace(bundle.manifest, files=files))
    monkeypatch.chdir(bundle.path)
    return load_bundle(bundle.path)


def test_onnxruntime_is_not_given_a_graph_whose_weights_no_hash_covers(scattered: Bundle) -> None:
    with pytest.raises(BundleError, match=rf"model\.onnx {ELSEWHERE}$"):
        OnnxRuntime(scattered)


def test_nor_is_tensorrt(scattered: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plug_in(monkeypatch, Machine(), tmp_path / "engines")
    device = CudaDevice()
    with device.current():
        for precision, name in GRAPHS.items():
            engines = Engines(import_tensorrt(), scattered, device.facts, precision, EngineCache())
            with pytest.raises(RuntimeUnavailableError, match=rf"{name} {ELSEWHERE}$"):
                engines.build()


def test_nor_is_another_graph_made_of_it(scattered: Bundle) -> None:
    with pytest.raises(BundleError, match=ELSEWHERE):
        add_float16_graph(scattered)


def test_the_shipped_graphs_hold_their_weights_themselves() -> None:
    shipped = load_bundle()
    for name in GRAPHS.values():
        assert onnx.load_from_string(read_graph(shipped, name)).graph.initializer


def far_tensor() -> TensorProto:
    tensor = numpy_helper.from_array(np.zeros(2, np.float32), "w")
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value="elsewhere")
    return tensor


def named_without_a_location() -> TensorProto:
    tensor = far_tensor()
    tensor.ClearField("data_location")
    return tensor


def only_said_to_lie_elsewhere() -> TensorProto:
    tensor = far_tensor()
    tensor.ClearField("external_data")
    return tensor


def sparse(tensor: TensorProto) -> onnx.SparseTensorProto:
    return onnx.SparseTensorProto(values=tensor, dims=[2])


def attribute_of(tensor: TensorProto, kind: str) -> onnx.AttributeProto:
    made = onnx.AttributeProto(name="value")
    if kind == "t":
        made.t.CopyFrom(tensor)
    elif kind == "tensors":
        made.tensors.append(tensor)
    elif kind == "sparse_tensor":
        made.sparse_tensor.CopyFrom(sparse(tensor))
    elif kind == "sparse_tensors":
        made.sparse_tensors.append(sparse(tensor))
    else:
        inner = onnx.GraphProto(initializer=[tensor])
        made.g.CopyFrom(inner) if kind == "g" else made.graphs.append(inner)
    return made


def in_a_node(kind: str) -> Callable[[TensorProto], onnx.ModelProto]:
    def make(tensor: TensorProto) -> onnx.ModelProto:
        node = onnx.NodeProto(op_type="Constant", attribute=[attribute_of(tensor, kind)])
        return onnx.ModelProto(graph=onnx.GraphProto(node=[helper.make_node("Identity", ["x"], ["y"]), node]))

    return make


def in_a_function(tensor: TensorProto) -> onnx.ModelProto:
    node = onnx.NodeProto(op_type="Constant", attribute=[attribute_of(tensor, "t")])
    return onnx.ModelProto(functions=[onnx.FunctionProto(node=[node])])


PLACES: dict[str, Callable[[TensorProto], onnx.ModelProto]] = {
    "an initialiser": lambda tensor: onnx.ModelProto(graph=onnx.GraphProto(initializer=[tensor])),
    "a sparse initialiser": lambda tensor: onnx.ModelProto(graph=onnx.GraphProto(sparse_initializer=[sparse(tensor)])),
    "a function": in_a_function,
    "a function's default": lambda tensor: onnx.ModelProto(
        functions=[onnx.FunctionProto(attribute_proto=[attribute_of(tensor, "t")])]
    ),
    "training": lambda tensor: onnx.ModelProto(
        training_info=[onnx.TrainingInfoProto(algorithm=onnx.GraphProto(initializer=[tensor]))]
    ),
    **{
        f"an attribute's {kind}": in_a_node(kind)
        for kind in ("t", "tensors", "g", "graphs", "sparse_tensor", "sparse_tensors")
    },
}


@pytest.mark.parametrize("make", PLACES.values(), ids=PLACES)
@pytest.mark.parametrize("tensor", [far_tensor, named_without_a_location, only_said_to_lie_elsewhere])
def test_it_is_found_wherever_it_stands(
    make: Callable[[TensorProto], onnx.ModelProto], tensor: Callable[[], TensorProto]
) -> None:
    near = numpy_helper.from_array(np.arange(300, dtype=np.float32), "w")
    near.data_location = TensorProto.DEFAULT
    assert not has_external_data(make(near).SerializeToString())
    assert has_external_data(make(tensor()).SerializeToString())


def test_every_way_to_a_tensor_that_onnx_knows_is_walked() -> None:
    names = {
        "ModelProto": "model", "TrainingInfoProto": "training", "GraphProto": "graph", "NodeProto": "node",
        "AttributeProto": "attribute", "SparseTensorProto": "sparse tensor", "FunctionProto": "function",
        "TensorProto": "tensor",
    }  # fmt: skip
    file = onnx.ModelProto.DESCRIPTOR.file
    fields = [
        (message.name, field.number, field.message_type.name)
        for message in file.message_types_by_name.values() for field in message.fields if field.message_type
    ]  # fmt: skip
    lead_to_tensors = {"TensorProto"}
    while True:
        more = {message for message, _, held in fields if held in lead_to_tensors} - lead_to_tensors
        if not more:
            break
        lead_to_tensors |= more
    assert lead_to_tensors == set(names)
    for name, short in names.items():
        known = {number: names[held] for message, number, held in fields if message == name and held in names}
        assert CHILDREN[short] == known, name


def test_a_key_with_bits_that_a_parser_drops_is_read_as_a_parser_reads_it() -> None:
    """The key of `graph` is 0x3A; written in five bytes, it may have bits that protobuf does not look at."""
    graph = onnx.GraphProto(initializer=[far_tensor()]).SerializeToString()
    assert len(graph) < 128
    padded = bytes([0x80 | 0x3A, 0x80, 0x80, 0x80, 0x70, len(graph)]) + graph
    assert has_external_data(padded)


def test_messages_nested_without_end_are_no_graph() -> None:
    content = b""
    for _ in range(10 * DEEPEST):
        for key in (0x32, 0x2A, 0x0A):  # a graph in an attribute in a node
            content = bytes([key]) + length_of(content) + content
    with pytest.raises(ValueError, match="nested too deep"):
        has_external_data(b"\x3a" + length_of(content) + content)


def length_of(content: bytes) -> bytes:
    left, digits = len(content), []
    while True:
        digits.append(left & 0x7F | (0x80 if left > 0x7F else 0))
        left >>= 7
        if not left:
            return bytes(digits)


@given(st.binary(max_size=300))
def test_any_bytes_are_walked_or_refused(raw: bytes) -> None:
    try:
        has_external_data(raw)
    except ValueError:
        return
