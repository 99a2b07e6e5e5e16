"""One try of a number of streams: everything started anew, a load in a process of its own, what each process used."""

from __future__ import annotations

import contextlib
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import pairwise
from typing import IO, Any

import msgspec

from edge.bench import BenchError
from edge.bench.bare_client import READY
from edge.bench.load import MEASURING, PERIOD_S, SENT, Plan
from edge.bench.processes import cpu_s, resident_mb
from edge.bench.stand import Daemon, Model, running_broker

P99_LIMIT_MS = 100.0
GROWTH_LIMIT_MS = 10.0
"""Of the median latency, from the first third of a try to the last: more than that is no noise."""
LATE_LIMIT_MS = 100.0
"""Of the generator's own schedule (99th percentile): beyond it the load is not what it says."""
BARE_SETTLE_S = 1.0


@dataclass(frozen=True)
class Mark:
    """What each process had used at a moment."""

    at_s: float
    cpu_s: dict[str, float]
    memory_mb: dict[str, float]


OnPart = Callable[[int, Mark], None]
"""Hears which part of the time has ended, and what was used by then."""


def try_daemon(model: Model, plan: Plan, on_part: OnPart = lambda k, used: None) -> dict[str, Any]:
    """Run a broker, a daemon and a load; return what was measured, and whether it was held."""
    with running_broker() as broker, Daemon(broker, model, plan.streams) as daemon:
        report, marks = run_load(broker.port, plan, {"daemon": daemon.pid, "broker": broker.pid}, on_part)
        daemon.check()
    why, used = why_not_held(report), cpu_percent(marks[0], marks[-1])
    return {
        **_outcome(plan, why),
        "ill_share": plan.ill_share,
        **{name: report[name] for name in ("latency_ms", "growth_ms", "scores", "scores_due", "sent", "acknowledged")},
        "late_ms": report["late_ms"],
        "cpu_percent": used["daemon"],
        "broker_cpu_percent": used["broker"],
        "load_cpu_percent": used["load"],
        "memory_mb": marks[-1].memory_mb["daemon"],
        "ready_s": daemon.ready_s,
        "parts": [
            {
                "until_s": plan.seconds * (k + 1) / plan.parts,
                "latency_ms": report["parts_latency_ms"][k],
                "cpu_percent": cpu_percent(before, after)["daemon"],
                "memory_mb": after.memory_mb["daemon"],
            }
            for k, (before, after) in enumerate(pairwise(marks))
        ],
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
    plan = Plan(streams, seconds, hop_samples=0)
    with running_broker() as broker, _bare_client(broker.port) as client:
        report, marks = run_load(broker.port, plan, {"client": client.pid, "broker": broker.pid})
        sent_s = time.monotonic()
        time.sleep(BARE_SETTLE_S)
        client.send_signal(signal.SIGTERM)
        assert client.stdout is not None
        counted = msgspec.json.decode(client.stdout.readline(), type=dict[str, float])
    used = cpu_percent(marks[0], marks[-1])
    lag_ms = (counted["last_s"] - sent_s) * 1000
    why = why_not_held(report)
    if why is None and counted["messages"] < report["sent"]:
        why = f"{report['sent'] - counted['messages']:.0f} of {report['sent']} messages had not come after a second"
    if why is None and lag_ms > P99_LIMIT_MS:
        why = f"the last message came {lag_ms:.0f} ms late"
    return {
        **_outcome(plan, why),
        "cpu_percent": used["client"],
        "broker_cpu_percent": used["broker"],
        "load_cpu_percent": used["load"],
    }


def cpu_percent(before: Mark, after: Mark) -> dict[str, float]:
    """Return what each process used between two moments, in percent of a core."""
    elapsed_s = after.at_s - before.at_s
    return {name: (after.cpu_s[name] - before.cpu_s[name]) / elapsed_s * 100 for name in before.cpu_s}


def _outcome(plan: Plan, why: str | None) -> dict[str, Any]:
    """Return what a row of every table begins with; `why` it was not held, if it was not."""
    streams = plan.streams
    return {"streams": streams, "held": why is None, "why_not": why, "messages_per_s": streams / PERIOD_S}


def run_load(
    port: int, plan: Plan, pids: dict[str, int], on_part: OnPart = lambda k, used: None
) -> tuple[dict[str, Any], list[Mark]]:
    """Run the generator; return its report, and what it and other processes had used when.

    The first mark is of the end of the warm-up, one more of the end of each part of the time that is measured.
    """
    command = [sys.executable, "-m", "edge.bench.load", "--port", str(port), msgspec.json.encode(plan).decode()]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as load:  # noqa: S603
        assert load.stdout is not None
        every = {**pids, "load": load.pid}
        try:
            marks = [_mark_at(load.stdout, MEASURING, every)]
            for k in range(plan.parts):
                marks.append(_mark_at(load.stdout, SENT, every))
                on_part(k, marks[-1])
            report: dict[str, Any] = msgspec.json.decode(load.stdout.readline())
        except (BenchError, msgspec.DecodeError):
            load.kill()
            raise BenchError(f"the load generator died: {_last_line(load)}") from None
    return report, marks


def _mark_at(lines: IO[str], event: str, pids: dict[str, int]) -> Mark:
    """Wait for a line of the generator; return what was used by then."""
    if lines.readline().strip() != event:
        raise BenchError(f"the load generator said something else than {event}")
    cpu = {name: cpu_s(pid) for name, pid in pids.items()}
    return Mark(time.monotonic(), cpu, {name: resident_mb(pid) for name, pid in pids.items()})


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
