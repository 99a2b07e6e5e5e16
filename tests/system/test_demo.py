"""The demo as a stranger runs it: broker, daemon, devices, and nothing left behind."""

from __future__ import annotations

import importlib.util
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.mosquitto import find_program

DEMO = [sys.executable, "-m", "edge", "demo"]
ROOT = Path(__file__).parents[2]


def environment(tmp_path, **changes):
    """No PTB-XL named and no network: the simulated patient plays."""
    kept = {name: value for name, value in os.environ.items() if name != "PTBXL_ROOT"}
    return {
        **kept, "XDG_CACHE_HOME": str(tmp_path), "https_proxy": "http://127.0.0.1:9", "PYTHONPATH": str(ROOT), **changes
    }  # fmt: skip


def children_of(pid):
    listed = subprocess.run(["ps", "-o", "pid=", "--ppid", str(pid)], capture_output=True, text=True, check=False)
    return [int(child) for child in listed.stdout.split()]


@pytest.fixture(autouse=True)
def _needs_mosquitto():
    if find_program("mosquitto") is None:
        pytest.skip("mosquitto is not installed (Debian: apt install mosquitto)")


def test_the_demo_ends_by_itself_and_says_what_it_saw(tmp_path):
    done = subprocess.run(
        [*DEMO, "--seconds", "12", "--speed", "6", "--devices", "3", "--json", "--picture", str(tmp_path / "a.svg")],
        env=environment(tmp_path), capture_output=True, text=True, timeout=90, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)
    assert result["streams"] == 3
    assert result["scores"] > 60
    assert result["alerts"] > 0
    assert result["runtime"] == "onnxruntime"
    assert 0 < result["latency_ms"]["p50"] <= result["latency_ms"]["p99"]
    assert result["source"]["kind"] == "simulated"
    assert "SIMULATED" in done.stderr
    assert (tmp_path / "a.svg").read_text().startswith("<svg")


def test_the_demo_plays_ptbxl_where_it_is(tmp_path, ptbxl_root):
    done = subprocess.run(
        [*DEMO, "--seconds", "6", "--speed", "6", "--devices", "2", "--json"],
        env=environment(tmp_path, PTBXL_ROOT=str(ptbxl_root)), capture_output=True, text=True, timeout=90, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["source"]["kind"] == "ptb-xl"


def test_ctrl_c_puts_everything_away(tmp_path):
    demo = subprocess.Popen(
        [*DEMO, "--seconds", "60"], env=environment(tmp_path), stderr=subprocess.PIPE, stdout=subprocess.PIPE
    )
    deadline = time.monotonic() + 30
    while len(children := children_of(demo.pid)) < 2:
        assert demo.poll() is None
        assert time.monotonic() < deadline, "the demo did not start its broker and daemon"
        time.sleep(0.05)
    demo.send_signal(signal.SIGINT)
    demo.communicate(timeout=30)
    assert not [child for child in children if Path(f"/proc/{child}").exists()]


def test_the_embedded_broker_serves_where_mosquitto_is_missing(tmp_path):
    if importlib.util.find_spec("amqtt") is None:
        pytest.skip("amqtt is not installed (pip install 'ecg-edge[demo]')")
    hidden = "import shutil; shutil.which = lambda *a, **k: None; from edge.cli import main; raise SystemExit(main())"
    done = subprocess.run(
        [sys.executable, "-c", hidden, "demo", "--seconds", "8", "--speed", "5", "--devices", "1", "--json"],
        env=environment(tmp_path), capture_output=True, text=True, timeout=90, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["scores"] > 10


def test_a_record_that_is_not_there_is_one_clear_line(tmp_path):
    done = subprocess.run(
        [*DEMO, "--records", str(tmp_path / "none")], env=environment(tmp_path), capture_output=True, text=True,
        timeout=60, check=False,
    )  # fmt: skip
    assert done.returncode == 2
    assert "there is no header" in done.stderr
    assert "Traceback" not in done.stderr
