"""What the daemon publishes for a stream is what the same samples give without a broker."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import numpy as np
import pytest
import wfdb

from edge.signal.leads import STANDARD_LEADS
from edge.stream.wire import encode_json, encode_msgpack
from tests.ecg import chunks_of, disturbed, patient
from tests.reference import assert_same_scores
from tests.system.conftest import Site

ENCODINGS = {"msgpack": encode_msgpack, "base64": encode_json, "nested": partial(encode_json, nested=True)}
ODD_SIZES = (7, 131, 50, 1, 93)
SECONDS = 14

every_encoding = pytest.mark.parametrize("encoding", ENCODINGS)
both_rates = pytest.mark.parametrize("rate_hz", [100, 500])


@every_encoding
@both_rates
def test_every_encoding_in_odd_chunks_gives_the_offline_scores(site: Site, encoding: str, rate_hz: int) -> None:
    device, samples = f"odd-{encoding}-{rate_hz}", patient(SECONDS, rate_hz, seed=3)
    site.devices.send(device, chunks_of(samples, rate_hz, ODD_SIZES), ENCODINGS[encoding])
    assert_same_scores(site.ward.await_scores(device, SECONDS), samples, rate_hz)


@both_rates
def test_duplicates_and_disorder_change_nothing(site: Site, rate_hz: int) -> None:
    device, samples = f"disordered-{rate_hz}", patient(SECONDS, rate_hz, seed=4)
    site.devices.send(device, disturbed(chunks_of(samples, rate_hz, rate_hz // 5)))
    assert_same_scores(site.ward.await_scores(device, SECONDS), samples, rate_hz)


def test_many_streams_at_once_do_not_mix(site: Site) -> None:
    signals = {f"bed-{number}": patient(SECONDS, seed=number) for number in range(12)}
    cut = {device: chunks_of(samples) for device, samples in signals.items()}
    for second in range(SECONDS):
        for device, chunks in cut.items():
            site.devices.send(device, [chunks[second]], wait=False)
    for device, samples in signals.items():
        assert_same_scores(site.ward.await_scores(device, SECONDS), samples)


@every_encoding
@pytest.mark.parametrize(("folder", "suffix", "rate_hz"), [("records100", "lr", 100), ("records500", "hr", 500)])
def test_a_real_record_gives_the_offline_scores(
    site: Site, ptbxl_root: Path, encoding: str, folder: str, suffix: str, rate_hz: int
) -> None:
    device = f"real-{encoding}-{rate_hz}"
    record = wfdb.rdrecord(str(ptbxl_root / folder / "00000" / f"00001_{suffix}"))
    assert [name.lower() for name in record.sig_name] == [name.lower() for name in STANDARD_LEADS]
    samples = np.round(record.p_signal * 1000).astype(np.int16)
    site.devices.send(device, chunks_of(samples, rate_hz, rate_hz // 4), ENCODINGS[encoding])
    assert_same_scores(site.ward.await_scores(device, 10), samples, rate_hz)
