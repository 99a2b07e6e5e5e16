"""The daemon's part of the benchmark with a real mosquitto, a real daemon and a few streams for a few seconds."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from edge.bench import BenchError
from edge.bench.cold_start import measure_daemon_start
from edge.bench.daemon import measure_daemon
from edge.bench.effort import DaemonEffort
from edge.bench.load import Plan
from edge.bench.processes import resident_mb
from edge.bench.stand import Daemon, Model, running_broker
from edge.bench.tries import run_load, try_bare_client, try_daemon, why_not_held
from edge.cli import main
from edge.demo.broker import mosquitto_path
from edge.runtime.bundle import shipped_bundle_path
from tests.daemon import until

pytestmark = pytest.mark.skipif(mosquitto_path() is None, reason="mosquitto is not installed")

HOP_SAMPLES = 100
SHIPPED = Model(shipped_bundle_path(), "auto")


def test_a_try_counts_every_chunk_and_score_and_what_the_processes_used() -> None:
    row = try_daemon(SHIPPED, Plan(4, seconds=2.0, warm_up_s=1.0, hop_samples=HOP_SAMPLES))
    assert row["sent"] == row["acknowledged"] == 2 * 6 + 2 * 5
    assert row["scores"] == row["scores_due"] == 2 * 3 + 2 * 2
    assert row["messages_per_s"] == 8
    assert 0 < row["latency_ms"]["median"] <= row["latency_ms"]["p99"]
    assert row["memory_mb"] > 20
    assert min(row["cpu_percent"], row["broker_cpu_percent"], row["load_cpu_percent"]) >= 0


def test_one_load_is_told_part_by_part(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["bench", "--streams", "4", "--seconds", "2", "--json"]) == 0
    captured = capsys.readouterr()
    load = json.loads(captured.out)["load"]
    assert load["sent"] == load["acknowledged"] == 16 + 15 + 14 + 13  # one after the other
    assert [part["until_s"] for part in load["parts"]] == [1, 2]
    assert all(part["memory_mb"] > 20 and part["cpu_percent"] > 0 for part in load["parts"])
    assert max(part["latency_ms"]["max"] for part in load["parts"]) == load["latency_ms"]["max"]
    assert "1 of 2 s: " in captured.err


def test_a_daemon_that_dies_under_load_is_told_and_not_taken_for_a_small_one() -> None:
    plan = Plan(2, seconds=2.0, hop_samples=HOP_SAMPLES, parts=2)
    with running_broker() as broker, Daemon(broker, SHIPPED, 2) as daemon:
        report, marks = run_load(broker.port, plan, {"daemon": daemon.pid}, lambda k, used: os.kill(daemon.pid, 9))
        with pytest.raises(BenchError, match="ended with status -9"):
            daemon.check()
    assert marks[1].memory_mb["daemon"] > 0 == marks[2].memory_mb["daemon"]
    assert "scores were missing" in (why_not_held(report) or "")


def test_the_bare_client_is_given_the_same_load_and_counts_it() -> None:
    row = try_bare_client(streams=4, seconds=1.0)
    assert (row["streams"], row["messages_per_s"]) == (4, 8)
    assert row["why_not"] is None or "late" in row["why_not"]  # on a busy machine


def test_the_daemon_s_part_finds_a_number_of_streams_and_says_what_they_cost() -> None:
    effort = DaemonEffort(
        ladder=(1,), first=4, resolution=2.0, warm_up_s=0.0, try_s=1.0, tries=1, search_s=0.0, starts=1,
        bare_s=0.5, bare_search_s=0.0,
    )  # fmt: skip
    result = measure_daemon(SHIPPED, HOP_SAMPLES, effort, lambda _: None)
    assert {"streams", "p99_ms", "messages_over_bare_client", "bare_client", "tries"} <= result.keys()
    assert [row["streams"] for row in result["tries"]] == [1, 4]
    assert result["streams"] in (0, 1, 4)


def test_the_cold_start_ends_with_a_score() -> None:
    start = measure_daemon_start(SHIPPED, HOP_SAMPLES, starts=1)
    assert 0 < start["daemon_ready_s"] < start["daemon_first_score_s"]


def test_a_run_that_is_ended_leaves_no_process_behind() -> None:
    command = [sys.executable, "-m", "edge", "bench", "--quick", "--only", "daemon"]
    with subprocess.Popen(command, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True) as bench:
        children: list[str] = []

        def daemon_is_starting() -> bool:
            children[:] = Path(f"/proc/{bench.pid}/task/{bench.pid}/children").read_text().split()
            return len(children) == 2 and resident_mb(children[1]) > 20

        until(daemon_is_starting, "broker and daemon")
        bench.send_signal(signal.SIGTERM)
        assert bench.wait(30) == 130
    assert not [pid for pid in children if Path(f"/proc/{pid}").exists()]


def test_a_daemon_that_does_not_start_is_one_line_with_its_own_words(tmp_path: Path) -> None:
    with running_broker() as broker, pytest.raises(BenchError, match=r"did not start: .*manifest\.json is missing"):
        Daemon(broker, Model(tmp_path, "auto"), 1).__enter__()
