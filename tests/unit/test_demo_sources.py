"""Where the demo's ECG comes from: what cannot be read is neither played nor kept."""

from __future__ import annotations

import http.server
import threading

import numpy as np
import pytest

from edge.demo import sources
from edge.demo.sources import choose_source
from edge.errors import RecordError
from edge.replay.patient import simulate
from edge.signal.leads import STANDARD_LEADS

wfdb = pytest.importorskip("wfdb", reason="wfdb is not installed (pip install 'ecg-edge[wfdb]')")


@pytest.fixture
def website(monkeypatch, tmp_path):
    """A website in PhysioNet's place: `answers` says what it gives for a path, or how many bytes to cut off."""
    answers = {"body": lambda path: b"", "missing": 0, "asked": []}

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            answers["asked"].append(self.path)
            body = answers["body"](self.path)
            self.send_response(200)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body[: len(body) - answers["missing"]])

        def log_message(self, *_):
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        monkeypatch.setattr(sources, "PHYSIONET", f"http://127.0.0.1:{server.server_port}/")
        monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
        monkeypatch.delenv("PTBXL_ROOT", raising=False)
        for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
            monkeypatch.delenv(name, raising=False)
        yield answers
        server.shutdown()
        thread.join()


def record(folder, name, rate_hz=100):
    samples_mv = np.rint(simulate(10.0, rate_hz).samples_mv * 1000) / 1000
    wfdb.wrsamp(
        name, rate_hz, ["mV"] * 12, list(STANDARD_LEADS), p_signal=samples_mv, fmt=["16"] * 12, adc_gain=[1000.0] * 12,
        baseline=[0] * 12, write_dir=str(folder),
    )  # fmt: skip
    return folder / name


def serve_records(answers, folder):
    """Serve the same synthetic signal under every record's name."""

    def body(path):
        name, ending = path.rsplit("/", 1)[1].split(".")
        return record(folder, name).with_name(f"{name}.{ending}").read_bytes()

    answers["body"] = body


def cached(tmp_path):
    return sorted(path.name for path in (tmp_path / "cache").rglob("*") if path.is_file())


def test_records_are_fetched_once_and_then_found_in_the_cache(website, tmp_path):
    serve_records(website, tmp_path)
    assert choose_source([], None, 2, 30.0, print).kind == "download"
    asked = len(website["asked"])
    assert choose_source([], None, 2, 30.0, print).kind == "download"
    assert len(website["asked"]) == asked == len(cached(tmp_path))


@pytest.mark.parametrize("broken", ["login page", "half a file"])
def test_a_broken_answer_is_not_kept_and_the_next_demo_fetches_again(website, tmp_path, broken):
    serve_records(website, tmp_path)
    whole = website["body"]
    website["body"] = {
        "login page": lambda path: b"<html>please log in</html>",
        "half a file": lambda path: whole(path)[: len(whole(path)) // 2] if path.endswith(".dat") else whole(path),
    }[broken]
    said = []
    assert choose_source([], None, 1, 20.0, said.append).kind == "simulated"
    assert "a simulated patient plays instead" in said[-1]
    assert cached(tmp_path) == []
    website["body"] = whole
    assert choose_source([], None, 1, 20.0, print).kind == "download"


def test_a_connection_that_ends_early_leaves_nothing_unreadable(website, tmp_path):
    serve_records(website, tmp_path)
    website["missing"] = 20
    assert choose_source([], None, 1, 20.0, print).kind == "simulated"
    assert cached(tmp_path) == []


def test_records_of_different_rates_are_refused_before_anything_starts(tmp_path):
    with pytest.raises(RecordError, match="differ in rate or leads"):
        choose_source([record(tmp_path, "a"), record(tmp_path, "b", rate_hz=500)], None, 1, 20.0, print)
