"""A small writer of ONNX graphs: constants, nodes with fresh names, and the few compound operations the model needs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import onnx
from numpy.typing import ArrayLike
from onnx import TensorProto, helper, numpy_helper

OPSET = 17
"""Oldest opset with LayerNormalization. TensorRT 10.3 (JetPack 6) parses 9 to 20, ONNX Runtime 7 to its newest.

From 18 on the axes of ReduceMean and ReduceMax are tensors instead of attributes, which buys nothing here.
"""

IR_VERSION = 8
"""The file format opset 17 came with: a newer one, which `onnx` writes by itself, is refused by runtimes older than it
(ONNX Runtime 1.23, the newest for Python 3.10, reads up to 11; the parser of TensorRT 10.3 is built with ONNX 1.16,
which is 10)."""

END = 2**31 - 1
"""'To the end' of a Slice: what TensorRT and ONNX Runtime both take for it."""

Dimension = str | int
Shapes = Mapping[str, Sequence[Dimension]]


class GraphBuilder:
    """Collects the nodes and constants of one graph, or of the body of a Scan; names are unique by `prefix`."""

    def __init__(self, prefix: str = "") -> None:
        self._prefix = prefix
        self._nodes: list[onnx.NodeProto] = []
        self._constants: dict[tuple[str, tuple[int, ...], bytes], onnx.TensorProto] = {}
        self._names = 0

    def floats(self, values: ArrayLike) -> str:
        """Add a float32 constant and return its name; equal constants are one."""
        return self._constant(np.ascontiguousarray(values, dtype=np.float32))

    def ints(self, *values: int) -> str:
        """Add a list of int64 as a constant and return its name."""
        return self._constant(np.array(values, dtype=np.int64))

    def op(self, kind: str, *inputs: str, **attributes: object) -> str:
        """Add a node with one output and return that output's name."""
        return self.ops(kind, inputs, 1, **attributes)[0]

    def ops(self, kind: str, inputs: Sequence[str], outputs: int, **attributes: object) -> list[str]:
        """Add a node with several outputs and return their names."""
        names = [self._fresh("v") for _ in range(outputs)]
        self._nodes.append(helper.make_node(kind, list(inputs), names, **attributes))  # type: ignore[arg-type]
        return names

    def name_output(self, value: str, name: str) -> None:
        """Give a value the name of an output of the graph; renaming costs a run nothing, an Identity would copy."""
        for node in self._nodes:
            for names in (node.input, node.output):
                names[:] = [name if each == value else each for each in names]

    def graph(self, name: str, inputs: Shapes, outputs: Shapes) -> onnx.GraphProto:
        """Return the graph with the given float32 inputs and outputs, name → shape."""
        return helper.make_graph(
            self._nodes, name, _values(inputs), _values(outputs), initializer=list(self._constants.values())
        )

    def linear(self, x: str, weight: ArrayLike, bias: ArrayLike | None = None) -> str:
        """x (…, in) · weightᵀ + bias, weight (out, in) as PyTorch keeps it."""
        product = self.op("MatMul", x, self.floats(np.asarray(weight).T))
        return product if bias is None else self.op("Add", product, self.floats(bias))

    def silu(self, x: str) -> str:
        """x · sigmoid(x)."""
        return self.op("Mul", x, self.op("Sigmoid", x))

    def rms_norm(self, x: str, weight: ArrayLike, eps: float) -> str:
        """Root-mean-square normalisation over the last axis."""
        mean_square = self.op("ReduceMean", self.op("Mul", x, x), axes=[-1], keepdims=1)
        root = self.op("Sqrt", self.op("Add", mean_square, self.floats(eps)))
        return self.op("Mul", self.op("Div", x, root), self.floats(weight))

    def cut(self, x: str, axis: int, start: int, end: int = END) -> str:
        """x[start:end] along an axis."""
        return self.op("Slice", x, self.ints(start), self.ints(end), self.ints(axis))

    def unsqueeze(self, x: str, axis: int) -> str:
        """Insert an axis of length one."""
        return self.op("Unsqueeze", x, self.ints(axis))

    def sum(self, x: str, axis: int, keepdims: bool = False) -> str:
        """Sum over an axis."""
        return self.op("ReduceSum", x, self.ints(axis), keepdims=int(keepdims))

    def _constant(self, array: np.ndarray[tuple[int, ...], np.dtype[np.generic]]) -> str:
        key = (array.dtype.name, array.shape, array.tobytes())
        if key not in self._constants:
            self._constants[key] = numpy_helper.from_array(array, self._fresh("c"))
        return self._constants[key].name

    def _fresh(self, letter: str) -> str:
        self._names += 1
        return f"{self._prefix}{letter}{self._names}"


def finish(graph: onnx.GraphProto, doc: str) -> onnx.ModelProto:
    """Wrap a graph as a model and check it fully: types, shapes and the operators of the opset."""
    model = helper.make_model(
        graph,
        opset_imports=[helper.make_opsetid("", OPSET)],
        ir_version=IR_VERSION,
        producer_name="ecg-edge",
        doc_string=doc,
    )
    onnx.checker.check_model(model, full_check=True)
    return model


def _values(shapes: Shapes) -> list[onnx.ValueInfoProto]:
    return [helper.make_tensor_value_info(name, TensorProto.FLOAT, list(shape)) for name, shape in shapes.items()]
