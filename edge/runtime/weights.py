"""Reading a bundle's weights: float32 tensors from a safetensors file, every bound checked before it is used.

Format: 8 bytes little endian with the length of a JSON header, that header (name → dtype, shape, data_offsets), data.
"""

from __future__ import annotations

import math
from collections.abc import Collection
from typing import Annotated

import msgspec
import numpy as np

from edge.errors import BundleError, RuntimeUnavailableError
from edge.runtime.base import Float32Array
from edge.runtime.bundle import FILE_LIMIT_BYTES, Bundle
from edge.runtime.manifest import WEIGHTS_NAME
from edge.runtime.native_build import NAME

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
    """Return a bundle's weights for the native runtime, name → float32 array.

    Raises BundleError when the file cannot be read, has changed since the bundle was opened, is not well formed or not
    finite, and RuntimeUnavailableError when a tensor is of a type that the kernel does not take.
    """
    raw = bundle.read(WEIGHTS_NAME)
    try:
        return parse_safetensors(raw)
    except (ValueError, RecursionError, msgspec.MsgspecError) as error:
        raise BundleError(bundle.path, f"{WEIGHTS_NAME} cannot be read: {error}") from None


def parse_safetensors(raw: bytes) -> dict[str, Float32Array]:
    """Return the tensors of a safetensors file.

    Raises ValueError, RecursionError or msgspec.MsgspecError where it is malformed or not finite, and
    RuntimeUnavailableError where it is sound and not float32.
    """
    if len(raw) < LENGTH_BYTES:
        raise ValueError("it ends before its header")
    length = int.from_bytes(raw[:LENGTH_BYTES], "little")
    if length > min(HEADER_LIMIT_BYTES, len(raw) - LENGTH_BYTES):
        raise ValueError(f"its header is said to have {length} bytes")
    start = LENGTH_BYTES + length
    header = msgspec.json.decode(raw[LENGTH_BYTES:start], type=dict[str, msgspec.Raw])
    header.pop(METADATA, None)
    entries = {name: msgspec.json.decode(entry, type=_Entry) for name, entry in header.items()}
    data = memoryview(raw)[start:]
    _require_seamless(entries.values(), len(data))
    return {name: _tensor(name, entry, data) for name, entry in entries.items()}


def _require_seamless(entries: Collection[_Entry], length: int) -> None:
    """Raise ValueError unless the tensors lie one behind the other, each byte of the data in exactly one.

    As the format wants it: no bytes that nothing names, and no file that grows as it is read.
    """
    end = 0
    for begin, after in sorted(entry.data_offsets for entry in entries):
        if begin != end or after < begin:
            raise ValueError(f"a tensor lies at {begin} to {after} where the one before it ends at {end}")
        end = after
    if end != length:
        raise ValueError(f"its tensors end at {end} of {length} bytes")


def _tensor(name: str, entry: _Entry, data: memoryview) -> Float32Array:
    begin, end = entry.data_offsets
    if entry.dtype != "F32":
        raise RuntimeUnavailableError(NAME, f"weight {name} is {entry.dtype}, and the kernel takes F32")
    if end - begin != 4 * math.prod(entry.shape):
        raise ValueError(f"{name} of shape {entry.shape} does not lie at {begin} to {end}")
    tensor = np.frombuffer(data[begin:end], dtype="<f4").astype(np.float32).reshape(entry.shape)
    if not np.isfinite(tensor).all():
        raise ValueError(f"{name} has a value that is not finite")
    return tensor
