"""One try of a number of streams: everything started anew, a load in a process of its own, what each process used."""

from __future__ import annotations

import contextlib
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from typing import IO, Any

import msgspec

from edge.bench import BenchError
from edge.bench.bare_client import READY
from edge.bench.load import MEASURING, PERIOD_S, SENT
from edge.bench.processes import cpu_s, resident_mb
from edge.bench.stand import Daemon, Model, running_broker

P99_LIMIT_MS = 100.0
GROWTH_LIMIT_MS = 10.0
"""Of the median latency, from the first third of a try to the last: more than that is no noise."""
LATE_LIMIT_MS = 100.0
"""Of the generator's own schedule (99th percentile): beyond it the load is not what it says."""
BARE_SETTLE_S = 1.0


def try_daemon(model: Model, hop_samples: int, streams: int, warm_up_s: float, seconds: float) -> dict[str, Any]:
    """Run a broker, a daemon and a load of so many streams; return what was measured, and whether they were held."""
    with running_broker() as broker, Daemon(broker, model, streams) as daemon:
        pids = {"daemon": daemon.pid, "broker": broker.pid}
        report, used = run_load(broker.port, streams, hop_samples, warm_up_s, seconds, pids)
        daemon.check()
        memory_mb = resident_mb(daemon.pid)
    why = why_not_held(report)
    return {
        "streams": streams,
        "held": why is None,
        "why_not": why,
        "messages_per_s": streams / PERIOD_S,
        **{name: report[name] for name in ("latency_ms", "growth_ms", "scores", "scores_due", "sent", "acknowledged")},
        "late_ms": report["late_ms"],
        "cpu_percent": used["daemon"],
        "broker_cpu_percent": used["broker"],
        "load_cpu_percent": used["load"],
        "memory_mb": memory_mb,
        "ready_s": daemon.ready_s,
    }


def why_not_held(report: dict[str, Any]) -> str | None:
    """Return in a few words why a load was not held, None if it was."""
    latency_ms, late_ms = report["latency_ms"], report["late_ms"]
    if report["acknowledged"] < report["sent"]:
        return f"the broker acknowledged {report['acknowledged']} of {report['sent']} chunks"
    if report["scores"] < report["scores_due"]:
        return f"{report['scores_due'] - report['scores']} of {report['scores_due']} scores were missing at the end"
    if late_ms and late_ms["p99"] > LATE_LIMIT_MS:
        return f"the load generator was late itself, by {late_ms['p99']:.0f} ms"
    if latency_ms and latency_ms["p99"] >= P99_LIMIT_MS:
        return f"p99 latency {latency_ms['p99']:.0f} ms"
    if report["growth_ms"] > GROWTH_LIMIT_MS:
        return f"the lag grew, by {report['growth_ms']:.0f} ms"
    return None


def try_bare_client(streams: int, seconds: float) -> dict[str, Any]:
    """Run a broker, the client that only counts and the same load; held means that all came, the last without delay."""
    with running_broker() as broker, _bare_client(broker.port) as client:
        report, used = run_load(broker.port, streams, 0, 0.0, seconds, {"client": client.pid, "broker": broker.pid})
        sent_s = time.monotonic()
        time.sleep(BARE_SETTLE_S)
        client.send_signal(signal.SIGTERM)
        assert client.stdout is not None
        counted = msgspec.json.decode(client.stdout.readline(), type=dict[str, float])
    lag_ms = (counted["last_s"] - sent_s) * 1000
    why = why_not_held(report)
    if why is None and counted["messages"] < report["sent"]:
        why = f"{report['sent'] - counted['messages']:.0f} of {report['sent']} messages had not come after a second"
    if why is None and lag_ms > P99_LIMIT_MS:
        why = f"the last message came {lag_ms:.0f} ms late"
    return {
        "streams": streams,
        "held": why is None,
        "why_not": why,
        "messages_per_s": streams / PERIOD_S,
        "cpu_percent": used["client"],
        "broker_cpu_percent": used["broker"],
        "load_cpu_percent": used["load"],
    }


def run_load(
    port: int, streams: int, hop_samples: int, warm_up_s: float, seconds: float, pids: dict[str, int]
) -> tuple[dict[str, Any], dict[str, float]]:
    """Run the generator; return its report, and the CPU of it and of other processes in percent of a core.

    CPU is that of the time that is measured: from the end of the warm-up until all is sent.
    """
    command = [sys.executable, "-m", "edge.bench.load", "--port", str(port), "--streams", str(streams)]
    command += ["--hop-samples", str(hop_samples), "--warm-up", str(warm_up_s), "--seconds", str(seconds)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as load:  # noqa: S603
        assert load.stdout is not None
        every = {**pids, "load": load.pid}
        try:
            before = _read_at(load.stdout, MEASURING, every)
            after = _read_at(load.stdout, SENT, every)
            report: dict[str, Any] = msgspec.json.decode(load.stdout.readline())
        except (BenchError, msgspec.DecodeError):
            load.kill()
            raise BenchError(f"the load generator died: {_last_line(load)}") from None
    return report, {name: (after[name] - before[name]) / seconds * 100 for name in every}


def _read_at(lines: IO[str], event: str, pids: dict[str, int]) -> dict[str, float]:
    """Wait for a line of the generator; return the CPU seconds used by then."""
    if lines.readline().strip() != event:
        raise BenchError(f"the load generator said something else than {event}")
    return {name: cpu_s(pid) for name, pid in pids.items()}


def _last_line(process: subprocess.Popen[str]) -> str:
    assert process.stderr is not None
    lines = process.stderr.read().strip().splitlines()
    return lines[-1] if lines else "it said nothing"


@contextlib.contextmanager
def _bare_client(port: int) -> Iterator[subprocess.Popen[bytes]]:
    """Run the client that only counts, subscribed."""
    command = [sys.executable, "-m", "edge.bench.bare_client", "--port", str(port)]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as client:  # noqa: S603
        try:
            assert client.stdout is not None
            if client.stdout.readline().strip() != READY.encode():
                raise BenchError("the bare client could not subscribe")
            yield client
        finally:
            client.kill()
