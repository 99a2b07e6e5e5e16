"""`ecg-edge score`: the streaming path in one command."""

from __future__ import annotations

import json

import numpy as np
import pytest
import wfdb

from edge.cli import main
from edge.monitor.offline import score_recordings
from edge.replay.patient import simulate
from edge.runtime.bundle import load_bundle
from edge.runtime.select import open_runtime
from edge.signal.leads import STANDARD_LEADS


def write(path, samples_mv, rate_hz=500, leads=STANDARD_LEADS):
    count = len(leads)
    wfdb.wrsamp(
        path.name, rate_hz, ["mV"] * count, list(leads), p_signal=samples_mv, fmt=["16"] * count,
        adc_gain=[1000.0] * count, baseline=[0] * count, write_dir=str(path.parent),
    )  # fmt: skip
    return str(path)


def test_a_record_gets_the_scores_of_the_streaming_path(tmp_path, capsys):
    samples_mv = np.rint(simulate(12.0).samples_mv * 1000) / 1000
    assert main(["score", write(tmp_path / "a", samples_mv), "--json"]) == 0
    (record,) = json.loads(capsys.readouterr().out)["records"]
    (expected,) = score_recordings(open_runtime(load_bundle()), [samples_mv], 500)
    assert record["state"] == "ready"
    assert list(record["probabilities"].values()) == pytest.approx(expected[-1].probabilities.tolist(), abs=1e-9)


def test_a_record_shorter_than_the_window_is_still_warming(tmp_path, capsys):
    assert main(["score", write(tmp_path / "short", simulate(4.0).samples_mv), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["records"][0]["state"] == "warming"


def test_a_record_that_does_not_fit_is_reported_and_the_others_are_scored(tmp_path, capsys):
    samples_mv = simulate(11.0).samples_mv
    good = write(tmp_path / "good", samples_mv)
    two_leads = write(tmp_path / "two", samples_mv[:, :2], leads=("MLII", "V5"))
    assert main(["score", two_leads, str(tmp_path / "none"), good, "--json"]) == 1
    printed = capsys.readouterr()
    result = json.loads(printed.out)
    assert [record["record"] for record in result["records"]] == ["good"]
    assert len(result["failed"]) == 2
    assert "missing" in printed.err
    assert "Traceback" not in printed.err


def test_a_simulated_patient_says_so(capsys):
    assert main(["score", "--simulate", "12"]) == 0
    assert "simulated" in capsys.readouterr().out


@pytest.mark.parametrize("seconds", ["0", "-3", "nan", "inf"])
def test_a_length_that_is_none_is_refused_in_one_line(seconds, capsys):
    assert main(["score", "--simulate", seconds]) == 2
    assert "must be above 0" in capsys.readouterr().err


def test_without_anything_to_score_it_says_what_to_do(capsys):
    assert main(["score"]) == 2
    assert "--simulate" in capsys.readouterr().err
