"""Reading a bundle's weights: float32 tensors from a safetensors file, every bound checked before it is used.

Format: 8 bytes little endian with the length of a JSON header, that header (name → dtype, shape, data_offsets), data.
"""

from __future__ import annotations

import hashlib
import math
from typing import Annotated

import msgspec
import numpy as np

from edge.errors import BundleError
from edge.runtime.base import Float32Array
from edge.runtime.bundle import FILE_LIMIT_BYTES, Bundle
from edge.runtime.manifest import WEIGHTS_NAME

LENGTH_BYTES = 8
HEADER_LIMIT_BYTES = 16 * 1024 * 1024
METADATA = "__metadata__"

Size = Annotated[int, msgspec.Meta(ge=0, le=FILE_LIMIT_BYTES)]


class _Entry(msgspec.Struct, frozen=True):
    """What the header says of one tensor."""

    dtype: str
    shape: Annotated[list[Size], msgspec.Meta(max_length=8)]
    data_offsets: tuple[Size, Size]


def read_weights(bundle: Bundle) -> dict[str, Float32Array]:
    """Return a bundle's weights, name → float32 array.

    Raises BundleError when the file cannot be read, has changed since the bundle was opened, is not well formed or
    holds anything but float32.
    """
    try:
        raw = bundle.weights_path.read_bytes()
    except OSError as error:
        raise BundleError(bundle.path, f"{WEIGHTS_NAME} cannot be read: {error.strerror}") from None
    if hashlib.sha256(raw).hexdigest() != bundle.manifest.files[WEIGHTS_NAME]:
        raise BundleError(bundle.path, f"{WEIGHTS_NAME} has changed since the bundle was opened; refused")
    try:
        return parse_safetensors(raw)
    except (ValueError, msgspec.MsgspecError) as error:
        raise BundleError(bundle.path, f"{WEIGHTS_NAME} cannot be read: {error}") from None


def parse_safetensors(raw: bytes) -> dict[str, Float32Array]:
    """Return the tensors of a safetensors file; raises ValueError or msgspec.MsgspecError where it is malformed."""
    if len(raw) < LENGTH_BYTES:
        raise ValueError("it ends before its header")
    length = int.from_bytes(raw[:LENGTH_BYTES], "little")
    if length > min(HEADER_LIMIT_BYTES, len(raw) - LENGTH_BYTES):
        raise ValueError(f"its header is said to have {length} bytes")
    start = LENGTH_BYTES + length
    header = msgspec.json.decode(raw[LENGTH_BYTES:start], type=dict[str, msgspec.Raw])
    header.pop(METADATA, None)
    data = memoryview(raw)[start:]
    return {name: _tensor(name, msgspec.json.decode(entry, type=_Entry), data) for name, entry in header.items()}


def _tensor(name: str, entry: _Entry, data: memoryview) -> Float32Array:
    begin, end = entry.data_offsets
    if entry.dtype != "F32":
        raise ValueError(f"{name} is {entry.dtype}, not F32")
    if not begin <= end <= len(data) or end - begin != 4 * math.prod(entry.shape):
        raise ValueError(f"{name} of shape {entry.shape} does not lie at {begin} to {end} of {len(data)} bytes")
    return np.frombuffer(data[begin:end], dtype="<f4").astype(np.float32).reshape(entry.shape)
