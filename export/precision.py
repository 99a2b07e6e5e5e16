"""The recurrent graph in other number formats, as a transformation of the float32 graph: its inputs and outputs stay
float32, and so do the scan, the norms, the pooling and every carried state.

Only the projections (every MatMul and the stem's Conv) change. In float16 each becomes cast → product → cast, which is
how a strongly typed TensorRT network is told a precision: from 11 on there is no other way. In int8 ONNX Runtime's own
dynamic quantisation rewrites them: weights per column, activations per call.
"""

from __future__ import annotations

import logging
import tempfile
from collections.abc import Callable
from pathlib import Path

import msgspec
import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from edge.errors import BundleError
from edge.runtime.bundle import Bundle, load_bundle, sha256_of, write_file, write_manifest
from edge.runtime.graph_file import read_graph
from edge.runtime.manifest import GRAPHS, ONNX_NAME
from export.graph import ExportError

FLOAT16_MAX = float(np.finfo(np.float16).max)
PROJECTIONS = ("MatMul", "Conv")


def float16_graph(model: onnx.ModelProto) -> onnx.ModelProto:
    """Return the graph with its projections in float16.

    Raises ExportError when a weight is too large for float16 or a projection has none.
    """
    cast = onnx.ModelProto()
    cast.CopyFrom(model)
    weights = {tensor.name: tensor for tensor in cast.graph.initializer}
    halves: dict[str, onnx.TensorProto] = {}
    nodes: list[onnx.NodeProto] = []
    for node in cast.graph.node:
        nodes += _in_float16(node, weights, halves) if node.op_type in PROJECTIONS else [node]
    del cast.graph.node[:]
    cast.graph.node.extend(nodes)
    cast.graph.initializer.extend(halves.values())
    _drop_unused(cast.graph)
    onnx.checker.check_model(cast, full_check=True)
    return cast


def int8_graph(model: onnx.ModelProto) -> onnx.ModelProto:
    """Return the graph with its MatMuls in int8 by ONNX Runtime's dynamic quantisation; for the CPU alone."""
    from onnxruntime.quantization import QuantType, quantize_dynamic

    quieted, before = logging.getLogger(), logging.getLogger().level
    with tempfile.TemporaryDirectory() as scratch:
        source, target = Path(scratch, "float32.onnx"), Path(scratch, "int8.onnx")
        source.write_bytes(model.SerializeToString())
        quieted.setLevel(logging.ERROR)  # it advises a preparation that is meant for graphs with unknown shapes
        try:
            quantize_dynamic(
                source,
                target,
                op_types_to_quantize=["MatMul"],
                weight_type=QuantType.QInt8,
                per_channel=True,
                extra_options={"DefaultTensorType": TensorProto.FLOAT},
            )
        finally:
            quieted.setLevel(before)
        return onnx.load(target)


PRECISIONS: dict[str, Callable[[onnx.ModelProto], onnx.ModelProto]] = {
    "fp32": lambda model: model,
    "fp16": float16_graph,
    "int8": int8_graph,
}
"""Every precision by name, and how its graph is made of the float32 one."""


def graph_bytes(bundle: Bundle, precision: str) -> bytes:
    """Return the bundle's graph in a precision: its own where it has one, else one made of the float32 graph."""
    name = GRAPHS.get(precision)
    return read_graph(bundle, name) if name in bundle.manifest.files else _made(bundle, precision)


def bundle_in_precision(bundle: Bundle, precision: str, folder: Path) -> Bundle:
    """Write a copy of a bundle into FOLDER whose graph is of another precision, to be run and measured as any other."""
    folder.mkdir()
    for name in bundle.manifest.files:
        (folder / name).write_bytes(bundle.read(name))
    (folder / ONNX_NAME).write_bytes(graph_bytes(bundle, precision))
    return _with_hash(Bundle(folder, bundle.manifest), ONNX_NAME)


def add_float16_graph(bundle: Bundle) -> Bundle:
    """Put the float16 graph beside the float32 one: what TensorRT engines of that precision are built from.

    At every moment the bundle is whole, without the graph if need be. Raises BundleError when it cannot be written.
    """
    name, made = GRAPHS["fp16"], _made(bundle, "fp16")
    others = {file: digest for file, digest in bundle.manifest.files.items() if file != name}
    try:
        write_manifest(bundle.path, msgspec.structs.replace(bundle.manifest, files=others))
        write_file(bundle.path, name, made)
        return _with_hash(bundle, name)
    except OSError as error:
        raise BundleError(bundle.path, f"cannot be written: {error.strerror or error}") from None


def _made(bundle: Bundle, precision: str) -> bytes:
    model = onnx.load_from_string(read_graph(bundle, ONNX_NAME))
    made: bytes = PRECISIONS[precision](model).SerializeToString(deterministic=True)
    return made


def _with_hash(bundle: Bundle, name: str) -> Bundle:
    files = bundle.manifest.files | {name: sha256_of(bundle.path, name)}
    write_manifest(bundle.path, msgspec.structs.replace(bundle.manifest, files=files))
    return load_bundle(bundle.path)


def _in_float16(
    node: onnx.NodeProto, weights: dict[str, onnx.TensorProto], halves: dict[str, onnx.TensorProto]
) -> list[onnx.NodeProto]:
    """A projection as casts around the same operator; `halves` collects its weights."""
    (result,) = node.output
    x, *constants = node.input
    if not constants or any(name not in weights for name in constants):
        raise ExportError(f"{node.op_type} {result} has no constant weights: no projection to cast to float16")
    half_x, half_result = f"{result}_x16", f"{result}_y16"
    names = [_half(weights[name], halves) for name in constants]
    product = onnx.NodeProto()
    product.CopyFrom(node)
    product.input[:] = [half_x, *names]
    product.output[:] = [half_result]
    return [
        helper.make_node("Cast", [x], [half_x], to=TensorProto.FLOAT16),
        product,
        helper.make_node("Cast", [half_result], [result], to=TensorProto.FLOAT),
    ]


def _half(weight: onnx.TensorProto, halves: dict[str, onnx.TensorProto]) -> str:
    name = f"{weight.name}_16"
    if name not in halves:
        values = numpy_helper.to_array(weight)
        if not np.abs(values).max(initial=0.0) <= FLOAT16_MAX:
            raise ExportError(f"weight {weight.name} has values beyond {FLOAT16_MAX:g}, too large for float16")
        halves[name] = numpy_helper.from_array(values.astype(np.float16), name)
    return name


def _drop_unused(graph: onnx.GraphProto) -> None:
    """Leave out the constants that no node reads any more."""
    used = {name for node in graph.node for name in node.input}
    kept = [tensor for tensor in graph.initializer if tensor.name in used]
    del graph.initializer[:]
    graph.initializer.extend(kept)
