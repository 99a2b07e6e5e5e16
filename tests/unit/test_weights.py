"""Reading safetensors: what was written is read; a header that lies and numbers that are none are refused."""

from __future__ import annotations

import json

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from safetensors.numpy import save

from edge.errors import RuntimeUnavailableError
from edge.runtime.weights import parse_safetensors


def test_what_safetensors_wrote_is_read() -> None:
    tensors = {
        "a": np.arange(6, dtype=np.float32).reshape(2, 3),
        "b": np.array(7, dtype=np.float32),
        "c": np.zeros((0, 4), dtype=np.float32),
    }
    read = parse_safetensors(save(tensors, metadata={"by": "hand"}))
    assert read.keys() == tensors.keys()
    for name, tensor in tensors.items():
        np.testing.assert_array_equal(read[name], tensor)


BAD_HEADERS = {
    "beyond the end": {"dtype": "F32", "shape": [3], "data_offsets": [0, 12]},
    "backwards": {"dtype": "F32", "shape": [1], "data_offsets": [8, 4]},
    "negative": {"dtype": "F32", "shape": [1], "data_offsets": [-4, 0]},
    "a shape of another size": {"dtype": "F32", "shape": [3], "data_offsets": [0, 8]},
    "a shape that overflows": {"dtype": "F32", "shape": [2**40, 2**40], "data_offsets": [0, 8]},
    "no shape": {"dtype": "F32", "data_offsets": [0, 8]},
    "no table": 7,
}


@pytest.mark.parametrize("entry", BAD_HEADERS.values(), ids=BAD_HEADERS)
def test_a_header_that_lies_is_refused(entry: object) -> None:
    header = json.dumps({"w": entry}).encode()
    with pytest.raises((ValueError, msgspec.MsgspecError)):
        parse_safetensors(len(header).to_bytes(8, "little") + header + bytes(8))


def file_of(header: object, data: bytes) -> bytes:
    encoded = json.dumps(header).encode()
    return len(encoded).to_bytes(8, "little") + encoded + data


def entry(begin: int, end: int) -> dict[str, object]:
    return {"dtype": "F32", "shape": [(end - begin) // 4], "data_offsets": [begin, end]}


UNSEAMLY = {
    "two over the same bytes": {"a": entry(0, 16), "b": entry(0, 16)},
    "two that overlap": {"a": entry(0, 12), "b": entry(8, 16)},
    "one within another": {"a": entry(0, 16), "b": entry(4, 8)},
    "bytes before the first": {"a": entry(4, 16)},
    "bytes between two": {"a": entry(0, 4), "b": entry(8, 16)},
    "bytes behind the last": {"a": entry(0, 8)},
    "bytes and no tensor": {},
}


@pytest.mark.parametrize("header", UNSEAMLY.values(), ids=UNSEAMLY)
def test_tensors_lie_one_behind_the_other_and_nothing_lies_between(header: object) -> None:
    with pytest.raises(ValueError, match=r"a tensor lies at|its tensors end at"):
        parse_safetensors(file_of(header, bytes(16)))


def test_tensors_come_in_any_order_and_may_be_empty() -> None:
    header = {"last": entry(8, 16), "nothing": entry(8, 8), "first": entry(0, 8), "end": entry(16, 16)}
    data = np.arange(4, dtype="<f4").tobytes()
    read = parse_safetensors(file_of(header, data))
    assert {name: tensor.tolist() for name, tensor in read.items()} == {
        "last": [2, 3], "nothing": [], "first": [0, 1], "end": []
    }  # fmt: skip


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_a_weight_that_is_not_finite_is_refused(value: float) -> None:
    with pytest.raises(ValueError, match="w has a value that is not finite"):
        parse_safetensors(save({"w": np.array([0.0, value], np.float32)}))


def test_weights_of_another_type_are_no_damage_but_nothing_for_this_kernel() -> None:
    with pytest.raises(RuntimeUnavailableError, match="weight w is F16, and the kernel takes F32"):
        parse_safetensors(save({"w": np.zeros(3, np.float16)}))


@given(st.binary(max_size=200), st.integers(0, 300))
def test_any_bytes_are_read_or_refused(raw: bytes, length: int) -> None:
    for data in (raw, length.to_bytes(8, "little") + raw, save({"w": np.zeros(3, np.float32)})[:length]):
        try:
            parse_safetensors(data)
        except (ValueError, msgspec.MsgspecError):
            continue
