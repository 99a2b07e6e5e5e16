"""Reading safetensors: what was written is read, and a header that lies is refused."""

from __future__ import annotations

import json

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from safetensors.numpy import save

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
    "another type": {"dtype": "F16", "shape": [2], "data_offsets": [0, 4]},
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


@given(st.binary(max_size=200), st.integers(0, 300))
def test_any_bytes_are_read_or_refused(raw: bytes, length: int) -> None:
    for data in (raw, length.to_bytes(8, "little") + raw, save({"w": np.zeros(3, np.float32)})[:length]):
        try:
            parse_safetensors(data)
        except (ValueError, msgspec.MsgspecError):
            continue
