"""`ecg-trainer explain`: a record, a moment of it or an alert of the daemon, in a picture and in numbers."""

from __future__ import annotations

import json

import msgspec
import numpy as np
import pytest
import wfdb
from PIL import Image

from edge.alerts.events import AlertEvent, Model, Point, Priority, State, Window, encode
from edge.monitor.offline import score_recordings
from edge.replay.records import read_recording
from edge.runtime.select import open_runtime
from edge.signal.leads import STANDARD_LEADS
from tests.ecg import patient
from tests.tiny_bundle import tiny_bundle
from tests.tiny_ptbxl import rows_of, write_ptbxl
from tests.windowed_bundles import windowed_bundle, windowed_checkpoint
from trainer.checkpoint import model_from_bundle, save_checkpoint
from trainer.cli import main
from trainer.explain.attribution import METHODS

RATE_HZ = 250
SECONDS = 24
QUICK = ("--method", "gradient")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("explain")


@pytest.fixture(scope="module")
def record(folder):
    """A WFDB record, its leads in no particular order."""
    order = list(reversed(range(12)))
    wfdb.wrsamp(
        "bed", RATE_HZ, ["mV"] * 12, [STANDARD_LEADS[k] for k in order], fmt=["16"] * 12, adc_gain=[1000.0] * 12,
        baseline=[0] * 12, d_signal=patient(SECONDS, RATE_HZ)[:, order].astype(np.int64), write_dir=str(folder),
    )  # fmt: skip
    return folder / "bed"


@pytest.fixture(scope="module")
def bundle(folder):
    return tiny_bundle(folder / "tiny")


@pytest.fixture(scope="module")
def alert(bundle, record):
    """What the daemon publishes at the eighteenth second of this record, whose first sample has index 0."""
    heard = read_recording(record)
    (hops,) = score_recordings(open_runtime(bundle, "auto"), [heard.samples_mv], heard.rate_hz, heard.leads)
    index = hops[17].last_index
    return AlertEvent(
        id="3f0b", revision=0, device="bed-1", session="s1", kind="class", class_name="MI", code="mi",
        state=State.RAISED, priority=Priority.HIGH, probability=float(hops[17].probabilities[1]), threshold=0.5,
        onset=Point(index), at=Point(index), window=Window(index + 1 - 10 * RATE_HZ, index),
        model=Model("tiny", bundle.manifest.model_hash, "native"), node="edge-1",
    )  # fmt: skip


@pytest.fixture
def explain(bundle, tmp_path, capsys):
    """Run the command; returns its JSON."""

    def run(*words, model=None):
        named = model or ("--bundle", bundle.path)
        out = () if "--out" in words else ("--out", tmp_path / "why.png")
        assert main(["explain", *map(str, [*words, *named, *out, "--json"])]) == 0, capsys.readouterr().err
        return json.loads(capsys.readouterr().out)

    return run


@pytest.fixture
def refusal(bundle, tmp_path, capsys):
    """Run the command; returns the one line it ends with."""

    def run(*words):
        assert main(["explain", *map(str, [*words, "--out", tmp_path / "why.png"])]) == 2
        error = capsys.readouterr().err.strip()
        assert "\n" not in error
        return error

    return run


def written(path, event, **changes):
    path.write_bytes(encode(msgspec.structs.replace(event, **changes)))
    return path


@pytest.mark.parametrize("method", METHODS)
def test_every_method_draws_a_picture_and_gives_numbers_per_lead_and_tenth_of_a_second(explain, record, method):
    result = explain(record, "--method", method, "--class", "HYP")

    assert list(result["leads"]) == list(STANDARD_LEADS)
    assert set(result["bins"]) == set(STANDARD_LEADS)
    assert {len(bins) for bins in result["bins"].values()} == {100}
    assert max(result["leads"], key=result["leads"].get) == result["most_salient"][0]
    assert result["class"] == "HYP"
    with Image.open(result["picture"]) as picture:
        assert picture.size[0] > 1700


def test_a_windowed_bundle_is_explained(explain, record, tmp_path):
    bundle = windowed_bundle(tmp_path / "windowed")

    result = explain(record, *QUICK, model=("--bundle", bundle.path))

    assert min(result["leads"].values()) > 0
    assert result["model"] == {"name": "resnet1d-wang 0.1", "hash": bundle.manifest.model_hash}


@pytest.mark.parametrize("kind", ["mamba", "ssl-encoder"])
def test_a_checkpoint_is_explained_without_thresholds(explain, record, tmp_path, bundle, kind):
    made = windowed_checkpoint("ssl-encoder")
    facts, network = made.facts, model_from_bundle(bundle) if kind == "mamba" else made.model
    save_checkpoint(tmp_path, network, facts.preset, facts.signal, facts.classes, facts.leads, {}, kind=kind)

    result = explain(record, *QUICK, model=("--checkpoint", tmp_path))

    assert min(result["leads"].values()) > 0
    assert result["threshold"] is None
    assert result["model"] == {"name": kind, "hash": None}


def test_an_alert_is_explained_by_the_ten_seconds_it_rests_on(explain, record, alert, tmp_path):
    result = explain(record, *QUICK, "--alert", written(tmp_path / "alert.json", alert))

    assert result["class"] == "MI"
    assert result["probability"] == pytest.approx(alert.probability, abs=1e-4)
    assert (result["window"]["from"], result["window"]["to"]) == (alert.window.first, alert.window.last)
    assert result["window"]["first_s"] == pytest.approx(8.0)
    assert result["alert"]["id"] == alert.id
    assert result["notes"] == []


def test_a_recording_may_begin_within_the_session(explain, record, alert, tmp_path):
    later = written(
        tmp_path / "alert.json", alert, at=Point(alert.at.i + 7000),
        window=Window(alert.window.first + 7000, alert.window.last + 7000),
    )  # fmt: skip

    result = explain(record, *QUICK, "--alert", later, "--first-index", "7000")

    assert result["probability"] == pytest.approx(alert.probability, abs=1e-4)
    assert result["window"]["to"] == alert.window.last + 7000
    assert result["notes"] == []


def test_a_stream_that_began_anew_is_followed_where_its_hops_fit(explain, record, alert, tmp_path):
    moved = Window(alert.window.first + 40, alert.window.last + 40)

    later = written(tmp_path / "alert.json", alert, at=Point(moved.last), window=moved)
    result = explain(record, *QUICK, "--alert", later)

    assert (result["window"]["from"], result["window"]["to"]) == (moved.first, moved.last)
    assert "from sample 40 on" in result["notes"][0]


def test_where_hops_fit_a_stream_may_not_have_begun_while_a_lead_was_away(explain, alert, tmp_path):
    """It would begin afresh once more when the lead comes back, and its hops would fit no longer."""
    units = patient(SECONDS, RATE_HZ).astype(float)
    units[35:50, 4] = np.nan  # for 60 ms, which bothers nobody who was there before
    wfdb.wrsamp(
        "moment", RATE_HZ, ["mV"] * 12, list(STANDARD_LEADS), fmt=["16"] * 12, adc_gain=[1000.0] * 12,
        baseline=[0] * 12, p_signal=units / 1000, write_dir=str(tmp_path),
    )  # fmt: skip
    moved = Window(alert.window.first + 40, alert.window.last + 40)

    later = written(tmp_path / "alert.json", alert, at=Point(moved.last), window=moved)
    result = explain(tmp_path / "moment", *QUICK, "--alert", later)

    assert (result["window"]["from"], result["window"]["to"]) == (moved.first, moved.last)
    assert "from sample 290 on" in result["notes"][0]


def test_a_stream_that_began_afresh_where_a_lead_came_back_is_followed_from_there(explain, bundle, alert, tmp_path):
    units = patient(SECONDS, RATE_HZ).astype(float)
    units[2 * RATE_HZ + 3 : 6 * RATE_HZ + 40, 4] = np.nan
    wfdb.wrsamp(
        "loose", RATE_HZ, ["mV"] * 12, list(STANDARD_LEADS), fmt=["16"] * 12, adc_gain=[1000.0] * 12,
        baseline=[0] * 12, p_signal=units / 1000, write_dir=str(tmp_path),
    )  # fmt: skip
    heard = read_recording(tmp_path / "loose")
    (hops,) = score_recordings(open_runtime(bundle, "auto"), [heard.samples_mv], RATE_HZ, heard.leads)
    index = hops[-1].last_index
    window = Window(index + 1 - 10 * RATE_HZ, index)

    raised = written(tmp_path / "alert.json", alert, at=Point(index), window=window)
    result = explain(tmp_path / "loose", *QUICK, "--alert", raised)

    assert (index - hops[0].last_index) % RATE_HZ == 40
    assert result["probability"] == pytest.approx(float(hops[-1].probabilities[1]), abs=1e-4)
    assert (result["window"]["from"], result["window"]["to"]) == (window.first, window.last)
    assert result["notes"] == []


def test_an_alert_of_another_model_says_so(explain, record, alert, tmp_path):
    other = written(tmp_path / "alert.json", alert, probability=0.999, model=Model("other", "f" * 64, "native"))

    notes = explain(record, *QUICK, "--alert", other)["notes"]

    assert "another model (other)" in notes[0]
    assert "the daemon said MI 0.999" in notes[1]


def test_a_technical_alert_has_no_score_to_explain(refusal, record, alert, tmp_path):
    technical = written(tmp_path / "alert.json", alert, kind="technical", class_name=None, code="lead_off")

    assert "lead_off is technical" in refusal(record, "--alert", technical)


def test_an_alert_of_another_recording_is_refused(refusal, record, alert, bundle, tmp_path):
    beyond = written(tmp_path / "alert.json", alert, at=Point(10**6), window=Window(10**6 - 2499, 10**6))
    assert "holds 0 to 5999" in refusal(record, "--bundle", bundle.path, "--alert", beyond)

    faster = written(tmp_path / "alert.json", alert, window=Window(100, 5099))
    assert "do not belong together" in refusal(record, "--bundle", bundle.path, "--alert", faster)


def test_what_is_not_an_alert_is_refused(refusal, record, tmp_path):
    (tmp_path / "alert.json").write_text('{"v": 1}')

    assert "is not an alert" in refusal(record, "--alert", tmp_path / "alert.json")
    assert "cannot be read" in refusal(record, "--alert", tmp_path / "none.json")


def test_a_window_may_end_anywhere_in_a_record(explain, record):
    result = explain(record, "--at", "13.4", *QUICK)

    assert result["window"] == {"first_s": 3.0, "seconds": 10.0, "from": 3 * RATE_HZ - 2, "to": 13 * RATE_HZ - 3}


def test_a_window_that_is_not_full_yet_says_that_the_stream_was_warming(explain, record):
    result = explain(record, "--at", "3", *QUICK)

    assert result["window"]["seconds"] == 3.0
    assert result["notes"] == ["the stream was still warming: 3 s of a window of 10 s"]


def test_a_record_of_ptbxl_comes_with_its_labels_and_the_credit_it_is_owed(explain, tmp_path):
    root = write_ptbxl(tmp_path / "ptb-xl", rows_of(["IMI", "LVH"], [9]))

    result = explain("--data", root, "--record", 2, *QUICK, "--out", tmp_path / "why.svg")

    assert result["labels"] == ["HYP"]
    svg = (tmp_path / "why.svg").read_text()
    assert "PTB-XL, Wagner et al. 2020, CC BY 4.0" in svg
    assert "Not a medical device" in svg


def test_a_simulated_patient_is_called_simulated(explain, tmp_path):
    result = explain("--simulate", 11, *QUICK, "--out", tmp_path / "why.svg")

    assert result["simulated"]
    assert "not a real ECG" in (tmp_path / "why.svg").read_text()


def test_what_cannot_be_is_refused_in_one_line(refusal, record, tmp_path):
    assert "name one recording" in refusal()
    assert "name one recording" in refusal(record, "--simulate", "10")
    assert "go together" in refusal("--record", "3")
    assert "leave out --at" in refusal(record, "--alert", "a.json", "--at", "5")
    assert "none of NORM" in refusal(record, "--class", "AF")
    root = write_ptbxl(tmp_path / "ptb-xl", rows_of(["IMI"], [9]))
    assert "holds no 100 Hz record 17" in refusal("--data", root, "--record", "17")


def test_a_picture_of_an_unknown_kind_is_refused(record, capsys):
    assert main(["explain", str(record), "--out", "why.gif"]) == 2
    assert "--out must end in .png, .svg, .pdf" in capsys.readouterr().err


def test_the_leads_are_printed_with_the_most_salient_first(record, bundle, tmp_path, capsys):
    words = [record, "--bundle", bundle.path, "--method", "occlusion", "--out", tmp_path / "why.png"]
    assert main(["explain", *map(str, words)]) == 0

    printed = capsys.readouterr()
    assert printed.out.splitlines()[0] == "Record bed, 14–24 s"
    values = [float(word.replace("−", "-")) for word in printed.out.splitlines()[-1].split() if word[0] in "+−"]
    assert values == sorted(values, reverse=True)
    assert len(values) == 12
    assert printed.err.strip() == f"wrote {tmp_path / 'why.png'}"
