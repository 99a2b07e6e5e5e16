"""A bundle's graph as bytes, once it is known to hold all of its weights itself.

ONNX lets a tensor lie in another file (onnx.proto, `TensorProto.external_data`). That file has no hash in the manifest,
and a runtime that is given a graph as bytes looks for it wherever the process happens to stand. So a graph that names
one is refused, whatever would read it.

The file is walked as protobuf (its specification, "Encoding"), down every path on which onnx.proto has tensors.
"""

from __future__ import annotations

from collections.abc import Iterator

from edge.errors import BundleError
from edge.runtime.bundle import Bundle

VARINT, FIXED64, DELIMITED, FIXED32 = 0, 1, 2, 5
"""How the value of a field is written. Groups (3 and 4) are no part of ONNX."""

FIXED_BYTES = {FIXED64: 8, FIXED32: 4}
VARINT_BYTES = 10
KEY_BITS = 0xFFFFFFFF
"""What a parser keeps of a field's key, whatever else stands there."""

DEEPEST = 100
"""Messages within messages, as far as protobuf's own parsers go."""

CHILDREN = {
    "model": {7: "graph", 20: "training", 25: "function"},
    "training": {1: "graph", 2: "graph"},
    "graph": {1: "node", 5: "tensor", 15: "sparse tensor"},
    "node": {5: "attribute"},
    "attribute": {5: "tensor", 6: "graph", 10: "tensor", 11: "graph", 22: "sparse tensor", 23: "sparse tensor"},
    "sparse tensor": {1: "tensor", 2: "tensor"},
    "function": {7: "node", 11: "attribute"},
    "tensor": {},
}
"""Message of onnx.proto → number of a field that leads to tensors → what that field holds."""

EXTERNAL_DATA, DATA_LOCATION = 13, 14
"""Fields of a tensor that say where it lies; of the second 0 means here."""


def read_graph(bundle: Bundle, name: str) -> bytes:
    """Return the content of one of a bundle's graphs.

    Raises BundleError when the file cannot be read, has changed since the bundle was opened, is no graph or keeps
    tensors in another file.
    """
    graph = bundle.read(name)
    try:
        elsewhere = has_external_data(graph)
    except ValueError as error:
        raise BundleError(bundle.path, f"{name} cannot be read: {error}") from None
    if elsewhere:
        advice = "save the graph with its weights inside"
        raise BundleError(bundle.path, f"{name} keeps weights in a file of its own, which no hash covers; {advice}")
    return graph


def has_external_data(graph: bytes) -> bool:
    """Whether a tensor anywhere in an ONNX file says that it lies elsewhere; raises ValueError for what is no ONNX."""
    return _lies_elsewhere("model", memoryview(graph), DEEPEST)


def _lies_elsewhere(message: str, content: memoryview, depth: int) -> bool:
    if not depth:
        raise ValueError("its messages are nested too deep")
    for number, value in _fields(content):
        if message == "tensor" and (number == EXTERNAL_DATA or (number == DATA_LOCATION and value != 0)):
            return True
        child = CHILDREN[message].get(number)
        if child is not None and isinstance(value, memoryview) and _lies_elsewhere(child, value, depth - 1):
            return True
    return False


def _fields(content: memoryview) -> Iterator[tuple[int, int | memoryview]]:
    """Walk over the fields of a message: their numbers, and their values as far as they are of use here."""
    at = 0
    while at < len(content):
        key, at = _varint(content, at)
        number, kind = (key & KEY_BITS) >> 3, key & 7
        if kind == VARINT:
            value, at = _varint(content, at)
            yield number, value
            continue
        if kind == DELIMITED:
            length, at = _varint(content, at)
        elif kind in FIXED_BYTES:
            length = FIXED_BYTES[kind]
        else:
            raise ValueError("it is no ONNX file")
        if length > len(content) - at:
            raise ValueError("it ends within a field")
        yield number, content[at : at + length]
        at += length


def _varint(content: memoryview, at: int) -> tuple[int, int]:
    """Return the number that begins there, seven bits to the byte and the lowest first, and where the next begins."""
    number = 0
    for index, byte in enumerate(content[at : at + VARINT_BYTES]):
        number |= (byte & 0x7F) << (7 * index)
        if byte < 0x80:
            return number, at + index + 1
    raise ValueError("it is no ONNX file")
