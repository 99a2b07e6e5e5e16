"""The `wave` payload, version 1: a chunk of samples that describes itself, as MessagePack or JSON."""

from __future__ import annotations

import base64
import binascii
import math
from functools import lru_cache
from typing import Annotated, Any, Literal, NamedTuple

import msgspec
import numpy as np
from numpy.typing import NDArray

from edge.errors import PayloadError, TopicError
from edge.signal import kernel
from edge.signal.resample import SUPPORTED_RATES_HZ
from edge.stream.topics import KNOWN_TOPICS, check_identifier

MAX_CHUNK_SECONDS = 60
MAX_LEADS = 16
MAX_INDEX = 2**53 - 1
MAX_TIME_NS = 2**63 - 1
INVALID_SAMPLE = -32768

Int16Array = NDArray[np.int16]
LeadName = Annotated[str, msgspec.Meta(min_length=1, max_length=16)]
Counter = Annotated[int, msgspec.Meta(ge=0, le=MAX_INDEX)]


class Flags(msgspec.Struct, frozen=True, omit_defaults=True):
    """What the device knows of its own signal."""

    lead_off: Annotated[int, msgspec.Meta(ge=0, le=2**MAX_LEADS - 1)] = 0
    """Bit k set: lead k of `leads` is off."""
    pacer: bool = False
    derived: bool = False


NO_FLAGS = Flags()


class _Envelope(msgspec.Struct, frozen=True, kw_only=True):
    """The fields as they stand on the wire, `x` still raw."""

    v: Literal[1]
    s: str
    q: Counter
    i: Counter
    t: Annotated[int, msgspec.Meta(ge=0, le=MAX_TIME_NS)] | None = None
    fs: Annotated[int, msgspec.Meta(ge=1, le=10_000)]
    leads: Annotated[list[LeadName], msgspec.Meta(min_length=1, max_length=MAX_LEADS)]
    unit: Literal["mV", "uV"] = "mV"
    gain: float = 1000.0
    baseline: Annotated[int, msgspec.Meta(ge=-32768, le=32767)] = 0
    flags: Flags = NO_FLAGS


class _BinaryWave(_Envelope, frozen=True, kw_only=True):
    x: bytes


class _JsonWave(_Envelope, frozen=True, kw_only=True):
    x: str | list[list[Annotated[int, msgspec.Meta(ge=-32768, le=32767)]]]


class Layout(NamedTuple):
    """What must not change for samples to be one stream."""

    session: str
    rate_hz: int
    leads: tuple[str, ...]
    unit: Literal["mV", "uV"]
    gain: float
    baseline: int

    @property
    def units_per_mv(self) -> float:
        """Sample units in a millivolt."""
        return _units_per_mv(self.gain, self.unit)

    @property
    def full_scale_mv(self) -> tuple[float, float]:
        """The lowest and the highest value a sample can state."""
        ends_mv = sorted((end - self.baseline) / self.units_per_mv for end in (INVALID_SAMPLE + 1, -INVALID_SAMPLE - 1))
        return ends_mv[0], ends_mv[1]


class Chunk(msgspec.Struct, frozen=True):
    """A decoded chunk. `samples` is int16 (samples, leads) in the device's units and lead order."""

    session: str
    number: int
    index: int
    time_ns: int | None
    rate_hz: int
    leads: tuple[str, ...]
    samples: Int16Array
    unit: Literal["mV", "uV"] = "mV"
    gain: float = 1000.0
    baseline: int = 0
    flags: Flags = NO_FLAGS

    @property
    def end(self) -> int:
        """Index one past the last sample."""
        return self.index + len(self.samples)

    @property
    def layout(self) -> Layout:
        """What must not change for samples to be one stream."""
        return _layout(self.session, self.rate_hz, self.leads, self.unit, self.gain, self.baseline)


_msgpack = msgspec.msgpack.Decoder(_BinaryWave)
_json = msgspec.json.Decoder(_JsonWave)


def decode(payload: bytes) -> Chunk:
    """Read a payload of either encoding; raises PayloadError with a reason, never anything else."""
    if not payload:
        raise PayloadError("empty", "the payload has no bytes")
    try:
        wave = _json.decode(payload) if payload[:1] in b"{ \t\r\n" else _msgpack.decode(payload)
    except msgspec.ValidationError as error:
        raise PayloadError(_validation_reason(str(error)), str(error)) from None
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError, ValueError, OverflowError) as error:
        raise PayloadError("malformed", str(error)[:200]) from None
    return _checked(wave, _samples(wave))


def encode_msgpack(chunk: Chunk) -> bytes:
    """Write a chunk as MessagePack, samples as a byte string."""
    lead_major = np.ascontiguousarray(chunk.samples.T, dtype="<i2")
    return msgspec.msgpack.encode(_BinaryWave(**_envelope(chunk), x=lead_major.tobytes()))


def encode_json(chunk: Chunk, nested: bool = False) -> bytes:
    """Write a chunk as JSON, samples as base64 or as nested lists."""
    lead_major = np.ascontiguousarray(chunk.samples.T, dtype="<i2")
    x = lead_major.tolist() if nested else base64.b64encode(lead_major.tobytes()).decode()
    return msgspec.json.encode(_JsonWave(**_envelope(chunk), x=x))


class Millivolts(NamedTuple):
    """A chunk's samples, both arrays (samples, leads); invalid samples are NaN in the first, 1 in the second."""

    samples_mv: NDArray[np.float64]
    invalid: NDArray[np.uint8]
    any_invalid: bool


def to_millivolts(chunk: Chunk) -> Millivolts:
    """Return a chunk's samples in millivolts, and which of them the device says are invalid."""
    count, leads = shape = chunk.samples.shape
    units_per_mv = _units_per_mv(chunk.gain, chunk.unit)
    library = kernel.library_for(leads)
    if library is not None:
        samples_mv, invalid = np.empty(shape), np.empty(shape, dtype=np.uint8)
        lead_major = np.ascontiguousarray(chunk.samples.T)
        any_invalid = library.millivolts(lead_major, samples_mv, invalid, leads, count, chunk.baseline, units_per_mv)
        return Millivolts(samples_mv, invalid, any_invalid)
    invalid = (chunk.samples == INVALID_SAMPLE).astype(np.uint8)
    samples_mv = np.where(invalid, np.nan, (chunk.samples.astype(np.float64) - chunk.baseline) / units_per_mv)
    return Millivolts(samples_mv, invalid, bool(invalid.any()))


_layout = lru_cache(maxsize=KNOWN_TOPICS)(Layout)
"""One object for all chunks of a stream."""


def _units_per_mv(gain: float, unit: str) -> float:
    return gain * (1000.0 if unit == "uV" else 1.0)


def _envelope(chunk: Chunk) -> dict[str, Any]:
    return {
        "v": 1, "s": chunk.session, "q": chunk.number, "i": chunk.index, "t": chunk.time_ns, "fs": chunk.rate_hz,
        "leads": list(chunk.leads), "unit": chunk.unit, "gain": chunk.gain, "baseline": chunk.baseline,
        "flags": chunk.flags,
    }  # fmt: skip


def _samples(wave: _BinaryWave | _JsonWave) -> Int16Array:
    """Return int16 (samples, leads); sizes are checked before anything is built from them."""
    leads = len(wave.leads)
    if isinstance(wave.x, list):
        lengths = {len(lead) for lead in wave.x}
        if len(wave.x) != leads or len(lengths) != 1:
            raise PayloadError(
                "lead-count", f"x has {len(wave.x)} lists of lengths {sorted(lengths)[:4]}, leads {leads}"
            )
        nested: Int16Array = np.array(wave.x, dtype=np.int16).T
        return nested
    data = wave.x if isinstance(wave.x, bytes) else _from_base64(wave.x)
    if len(data) % (2 * leads) != 0:
        raise PayloadError("lead-count", f"x has {len(data)} bytes, not a multiple of 2 x {leads} leads")
    samples: Int16Array = np.frombuffer(data, dtype="<i2").astype(np.int16, copy=False).reshape(leads, -1).T
    return samples


def _from_base64(text: str) -> bytes:
    try:
        return base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        raise PayloadError("malformed", "x is not base64") from None


def _checked(wave: _BinaryWave | _JsonWave, samples: Int16Array) -> Chunk:
    if wave.fs not in SUPPORTED_RATES_HZ:
        raise PayloadError("rate", f"fs {wave.fs} is not one of {SUPPORTED_RATES_HZ}")
    if not (math.isfinite(wave.gain) and 1e-3 <= abs(wave.gain) <= 1e9):
        raise PayloadError("gain", f"gain {wave.gain} is not a usable number of units per {wave.unit}")
    if len(samples) == 0:
        raise PayloadError("empty", "x has no samples")
    if len(samples) > MAX_CHUNK_SECONDS * wave.fs:
        raise PayloadError("too-long", f"{len(samples)} samples are more than {MAX_CHUNK_SECONDS} s at {wave.fs} Hz")
    if wave.i + len(samples) > MAX_INDEX:
        raise PayloadError("index", f"index {wave.i} is out of range")
    try:
        session = check_identifier(wave.s, "session")
    except TopicError as error:
        raise PayloadError("session", str(error)) from None
    return Chunk(
        session=session, number=wave.q, index=wave.i, time_ns=wave.t, rate_hz=wave.fs, leads=_once(tuple(wave.leads)),
        samples=samples, unit=wave.unit, gain=wave.gain, baseline=wave.baseline, flags=wave.flags,
    )  # fmt: skip


@lru_cache(maxsize=256)
def _once(leads: tuple[str, ...]) -> tuple[str, ...]:
    """Return the same names as one object: thousands of streams keep them, and each message is compared with them."""
    return leads


_REASONS = (("`$.v`", "schema"), ("`$.i`", "index"), ("`$.leads`", "leads"), ("`$.gain`", "gain"), ("`$.fs`", "rate"))


def _validation_reason(message: str) -> str:
    """Name the field a validation error speaks of in one word, for counting."""
    return next((reason for field, reason in _REASONS if field in message), "fields")
