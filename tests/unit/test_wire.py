"""The wave payload: what is written is read back, and anything else is refused with a reason."""

from __future__ import annotations

import base64
import contextlib

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from edge.errors import PayloadError, TopicError
from edge.signal import kernel
from edge.signal.leads import STANDARD_LEADS
from edge.signal.resample import SUPPORTED_RATES_HZ
from edge.stream import topics, wire

GOOD = {
    "v": 1, "s": "s1", "q": 0, "i": 0, "t": None, "fs": 100, "leads": ["I", "II"], "unit": "mV", "gain": 1000.0,
    "baseline": 0, "flags": {}, "x": [[1, 2, 3], [4, 5, -32768]],
}  # fmt: skip

chunks = st.builds(
    wire.Chunk,
    session=st.from_regex(r"[a-z0-9_-]{1,64}", fullmatch=True),
    number=st.integers(0, wire.MAX_INDEX),
    index=st.integers(0, wire.MAX_INDEX - 1000),
    time_ns=st.none() | st.integers(0, wire.MAX_TIME_NS),
    rate_hz=st.sampled_from(SUPPORTED_RATES_HZ),
    leads=st.just(STANDARD_LEADS),
    samples=hnp.arrays(np.int16, st.tuples(st.integers(1, 50), st.just(12))),
    unit=st.sampled_from(["mV", "uV"]),
    gain=st.floats(1e-3, 1e6),
    baseline=st.integers(-32768, 32767),
    flags=st.builds(wire.Flags, lead_off=st.integers(0, 0xFFF), pacer=st.booleans(), derived=st.booleans()),
)


def json_with(**changes: object) -> bytes:
    return msgspec.json.encode({**GOOD, **changes})


@given(chunk=chunks, encode=st.sampled_from([wire.encode_msgpack, wire.encode_json]))
def test_a_chunk_survives_every_encoding(chunk, encode):
    read = wire.decode(encode(chunk))
    assert np.array_equal(read.samples, chunk.samples)
    assert (read.layout, read.number, read.index, read.time_ns, read.flags) == (
        (chunk.layout), chunk.number, chunk.index, chunk.time_ns, chunk.flags,
    )  # fmt: skip


def test_nested_lists_and_base64_mean_the_same():
    nested = wire.decode(json_with())
    packed = base64.b64encode(np.array(GOOD["x"], dtype="<i2").tobytes()).decode()
    assert np.array_equal(nested.samples, wire.decode(json_with(x=packed)).samples)
    assert nested.samples.tolist() == [[1, 4], [2, 5], [3, -32768]]


def test_millivolts_follow_gain_baseline_and_unit_and_mark_invalid_samples():
    millivolts, invalid, _ = wire.to_millivolts(wire.decode(json_with(gain=200.0, baseline=1)))
    assert millivolts[0].tolist() == [0.0, 0.015]
    assert invalid.tolist() == [[False, False], [False, False], [False, True]]
    assert np.isnan(millivolts[2, 1])
    microvolts, *_ = wire.to_millivolts(wire.decode(json_with(unit="uV", gain=1.0)))
    assert microvolts[0].tolist() == [0.001, 0.004]


def test_the_full_scale_is_what_sixteen_bits_can_state():
    assert wire.decode(json_with(gain=200.0)).layout.full_scale_mv == (-163.835, 163.835)
    assert wire.decode(json_with(gain=-1.0, unit="uV", baseline=767)).layout.full_scale_mv == (-32.0, 33.534)


@pytest.mark.parametrize(
    ("payload", "reason"),
    [
        (b"", "empty"),
        (json_with()[:-5], "malformed"),
        (b"\xc1\xc1", "malformed"),
        (json_with(v=2), "schema"),
        (msgspec.json.encode({k: v for k, v in GOOD.items() if k != "v"}), "fields"),
        (json_with(i=-1), "index"),
        (json_with(i=2**60), "index"),
        (json_with(i=wire.MAX_INDEX), "index"),
        (json_with(i="0"), "index"),
        (json_with(gain=0.0), "gain"),
        (json_with(gain="1000"), "gain"),
        (json_with(fs=123), "rate"),
        (json_with(leads=[]), "leads"),
        (json_with(leads=["I"]), "lead-count"),
        (json_with(x=[[1, 2], [3]]), "lead-count"),
        (json_with(x=[[70000], [0]]), "fields"),
        (json_with(x="AAA"), "malformed"),
        (json_with(x="AAAA"), "lead-count"),
        (json_with(x=[[], []]), "empty"),
        (json_with(x=[[0] * 6001] * 2), "too-long"),
        (json_with(s="../etc"), "session"),
        (json_with(s="S 1"), "session"),
        (json_with(flags={"lead_off": 1 << 16}), "fields"),
    ],
)
def test_a_bad_payload_is_refused_with_its_reason(payload, reason):
    with pytest.raises(PayloadError) as refused:
        wire.decode(payload)
    assert refused.value.reason == reason


def test_a_gain_that_is_not_a_number_is_refused_in_messagepack():
    payload = msgspec.msgpack.encode({**GOOD, "gain": float("nan"), "x": b"\0" * 4})
    with pytest.raises(PayloadError) as refused:
        wire.decode(payload)
    assert refused.value.reason == "gain"


@settings(max_examples=500)
@given(st.binary(max_size=400))
def test_random_bytes_never_raise_anything_but_a_payload_error(payload):
    with contextlib.suppress(PayloadError):
        wire.decode(payload)


@given(chunk=chunks, flips=st.lists(st.tuples(st.integers(0, 10_000), st.integers(1, 255)), min_size=1, max_size=4))
def test_a_damaged_payload_is_read_or_refused_but_never_breaks_the_reader(chunk, flips):
    damaged = bytearray(wire.encode_msgpack(chunk))
    for at, mask in flips:
        damaged[at % len(damaged)] ^= mask
    try:
        read = wire.decode(bytes(damaged))
    except PayloadError:
        return
    assert read.samples.shape[1] == len(read.leads)


@pytest.mark.parametrize(
    "topic",
    ["ecg/v1/a/b/wave", "ecg/v1//wave", "ecg/v1/A/wave", "ecg/v1/a+/wave", "ecg/v2/a/wave", "ecg/v1/edge/wave",
     "ecg/v1/dead/wave", "ecg/v1/" + "a" * 65 + "/wave", "ecg/v1/a/status", "x"],
)  # fmt: skip
def test_a_topic_outside_the_contract_is_refused(topic):
    with pytest.raises(TopicError):
        topics.device_of(topic, "wave")


def test_topics_are_built_only_from_identifiers():
    assert topics.device_of(topics.wave_topic("bed-7"), "wave") == "bed-7"
    assert topics.alert_topic("bed-7", "MI") == "ecg/v1/bed-7/alert/mi"
    with pytest.raises(TopicError):
        topics.wave_topic("bed/../7")


@given(chunk=chunks)
def test_millivolts_in_c_and_in_numpy_agree_to_the_last_bit(chunk):
    compiled = wire.to_millivolts(chunk)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(kernel, "library", lambda: None)
        reference = wire.to_millivolts(chunk)
    for mine, theirs in zip(compiled, reference, strict=True):
        np.testing.assert_array_equal(mine, theirs)
