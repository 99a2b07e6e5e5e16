"""One daemon under load: how many streams it holds, how late its scores are, what it costs.

    python tests/benchmarks/bench_daemon.py [--streams 100 400 800] [--seconds 20] [--runtime auto] [--json]

A real mosquitto, a real daemon, and a load generator in a process of its own, all on this machine. Every device sends
twelve leads at 100 Hz, two chunks a second. Latency runs from the socket that sends the chunk that completes a hop to
the socket that receives its score. CPU seconds are those of each process; what they leave of the machine is the rest.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import msgspec

sys.path.insert(0, str(Path(__file__).parents[2]))

from edge.cli.output import emit_json
from tests.daemon import Daemon
from tests.mosquitto import Mosquitto, ServerTls


class GatewayBroker(Mosquitto):
    """A broker as a gateway would run it: its defaults hold back a subscriber of thousands of topics."""

    def _lines(self, users: dict[str, str], tls: ServerTls | None) -> list[str]:
        lines = [
            line for line in super()._lines(users, tls) if not line.startswith(("max_", "autosave", "persistence"))
        ]
        return [*lines, "max_inflight_messages 0", "max_queued_messages 0", "log_type error"]


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--streams", type=int, nargs="+", default=[100, 400, 800])
    parser.add_argument("--seconds", type=float, default=20.0)
    parser.add_argument("--runtime", default="auto")
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args()
    results = [measure(streams, args.seconds, args.runtime) for streams in args.streams]
    if args.json:
        emit_json({"daemon": results})
        return
    print(" streams       scores  median ms   p99 ms  CPU %  broker %     MB")
    for r in results:
        scored, latency_ms = f"{r['scores']}/{r['scores_due']}", r["latency_ms"]
        print(f"{r['streams']:>8} {scored:>12} {latency_ms['median']:>10.1f} {latency_ms['p99']:>8.1f} "
              f"{r['cpu_percent']:>6.0f} {r['broker_cpu_percent']:>9.0f} {r['rss_mb']:>6.0f}")  # fmt: skip


def measure(streams: int, seconds: float, runtime: str) -> dict[str, Any]:
    """Run broker, daemon and load together and return the load's report with what the processes used."""
    with tempfile.TemporaryDirectory() as folder:
        broker = GatewayBroker(Path(folder, "broker"))
        broker.start()
        settings = {"streams": {"max_streams": streams + 10}, "model": {"runtime": runtime}}
        daemon = Daemon(Path(folder), broker, settings | {"snapshot": {"interval_s": 30.0}})
        try:
            daemon.start()
            assert daemon.process is not None
            before = [cpu_s(pid) for pid in (daemon.process.pid, broker.pid)]
            command = [sys.executable, "-m", "edge.bench.load", "--port", str(broker.port)]
            command += ["--streams", str(streams), "--seconds", str(seconds)]
            report = msgspec.json.decode(subprocess.run(command, check=True, capture_output=True).stdout)
            used = [cpu_s(pid) - b for pid, b in zip((daemon.process.pid, broker.pid), before, strict=True)]
            shares = [round(100 * share / seconds, 1) for share in used]
            rss = resident_mb(daemon.process.pid)
            return {**report, "cpu_percent": shares[0], "broker_cpu_percent": shares[1], "rss_mb": rss}
        finally:
            daemon.kill()
            broker.stop()


def cpu_s(pid: int) -> float:
    """Return the CPU seconds a process has used, all threads (proc(5): utime and stime in ticks of 10 ms)."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / 100


def resident_mb(pid: int) -> float:
    """Return the resident memory of a process."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmRSS")) / 1024


if __name__ == "__main__":
    main()
