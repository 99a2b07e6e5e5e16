"""An alert that the real daemon published, explained from the recording it belongs to."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import wfdb

from edge.signal.leads import STANDARD_LEADS
from tests.bundles import alarming_bundle
from tests.ecg import chunks_of, patient
from tests.system.conftest import OpenSite
from trainer.cli import main

SECONDS = 17
DWELL_S = 5.0


@pytest.mark.parametrize("rate_hz", [100, 500])
def test_a_published_alert_is_explained_by_its_own_ten_seconds(
    open_site: OpenSite, tmp_path: Path, capsys: pytest.CaptureFixture[str], rate_hz: int
) -> None:
    bundle = alarming_bundle(tmp_path / "alarming", DWELL_S)
    site, samples = open_site(model={"bundle": str(bundle.path)}), patient(SECONDS, rate_hz, seed=5)
    site.devices.send("bed", chunks_of(samples, rate_hz, rate_hz // 4))
    alert = site.ward.await_alert("bed", "mi", "raised")
    (tmp_path / "alert.json").write_bytes(site.ward.payloads("ecg/v1/bed/alert/mi")[0])
    wfdb.wrsamp(
        "bed", rate_hz, ["mV"] * 12, list(STANDARD_LEADS), d_signal=samples.astype(np.int64), fmt=["16"] * 12,
        adc_gain=[1000.0] * 12, baseline=[0] * 12, write_dir=str(tmp_path),
    )  # fmt: skip

    words = [tmp_path / "bed", "--alert", tmp_path / "alert.json", "--bundle", bundle.path, "--method", "gradient"]
    assert main(["explain", *map(str, words), "--out", str(tmp_path / "why.png"), "--json"]) == 0

    result = json.loads(capsys.readouterr().out)
    assert result["notes"] == []
    assert result["class"] == "MI"
    assert result["probability"] == pytest.approx(alert.probability, abs=1e-4)
    assert alert.window is not None
    assert (result["window"]["from"], result["window"]["to"]) == (alert.window.first, alert.window.last)
    assert alert.at.i > 11 * rate_hz  # after the dwell: the state before the window matters
    assert (tmp_path / "why.png").stat().st_size > 10_000
