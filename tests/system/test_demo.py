"""The demo as a stranger runs it: broker, daemon, devices, and nothing left behind."""

from __future__ import annotations

import importlib.util
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from edge.cli import main
from tests.mosquitto import find_program
from tests.reference import shipped_runtime

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


needs_mosquitto = pytest.mark.skipif(
    find_program("mosquitto") is None, reason="mosquitto is not installed (Debian: apt install mosquitto)"
)


def started(tmp_path, *options):
    """Start a long demo; return it and its children, by what they are, once something has been scored."""
    demo = subprocess.Popen(
        [*DEMO, "--seconds", "60", "--devices", "2", *options], env=environment(tmp_path), stdout=subprocess.PIPE,
        stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    told = []
    for line in demo.stderr:
        told.append(line)
        if "scores" in line and " 0 scores" not in line:
            break
    else:
        pytest.fail(f"the demo scored nothing: {told}")
    names = {pid: Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0") for pid in children_of(demo.pid)}
    return demo, {"daemon" if b"run" in words else "broker": pid for pid, words in names.items()}


def is_alive(pid):
    return Path(f"/proc/{pid}").exists()


@needs_mosquitto
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
    assert result["runtime"] == shipped_runtime().name
    assert 0 < result["latency_ms"]["p50"] <= result["latency_ms"]["p99"]
    assert result["source"]["kind"] == "simulated"
    assert "SIMULATED" in done.stderr
    assert (tmp_path / "a.svg").read_text().startswith("<svg")


@needs_mosquitto
def test_the_demo_plays_ptbxl_where_it_is(tmp_path, ptbxl_root):
    done = subprocess.run(
        [*DEMO, "--seconds", "6", "--speed", "6", "--devices", "2", "--json"],
        env=environment(tmp_path, PTBXL_ROOT=str(ptbxl_root)), capture_output=True, text=True, timeout=90, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["source"]["kind"] == "ptb-xl"


@needs_mosquitto
@pytest.mark.parametrize("told", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_whatever_ends_the_demo_nothing_is_left_behind(tmp_path, told):
    demo, children = started(tmp_path)
    demo.send_signal(told)
    demo.communicate(timeout=40)
    assert demo.returncode == 0
    assert set(children) == {"broker", "daemon"}
    assert not [name for name, pid in children.items() if is_alive(pid)]


@needs_mosquitto
@pytest.mark.parametrize("part", ["broker", "daemon"])
def test_a_part_that_dies_ends_the_demo_with_one_clear_line(tmp_path, part):
    demo, children = started(tmp_path)
    os.kill(children[part], signal.SIGKILL)
    output, errors = demo.communicate(timeout=40)
    assert demo.returncode == 1
    assert f"ecg-edge demo: the {part}" in errors
    assert "Traceback" not in errors
    assert not output
    assert not [name for name, pid in children.items() if is_alive(pid)]


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


@pytest.mark.parametrize("option", [("--speed", "0"), ("--seconds", "-1"), ("--devices", "0")])
def test_a_number_that_makes_no_sense_is_refused(option, capsys):
    assert main(["demo", *option]) == 2
    assert "must" in capsys.readouterr().err
