"""From the start of a process to the first score: a runtime alone, and the daemon between a device and its broker."""

from __future__ import annotations

import contextlib
import subprocess
import sys
import time
from pathlib import Path

import msgspec

from edge.bench import BenchError, packets
from edge.bench.connection import dial
from edge.bench.first_score import PROGRAM, Start
from edge.bench.load import CHUNK_SAMPLES, DEVICE_PREFIX, Pattern
from edge.bench.stand import Daemon, Model, running_broker
from edge.stream.topics import score_topic, wave_topic

TIMEOUT_S = 120.0
SCORE_TIMEOUT_S = 10.0
TIMES = ("import_edge_s", "open_s", "first_score_s")


def measure_start(bundle: Path, runtime: str, starts: int, streams: int) -> dict[str, float]:
    """Start so many processes, one after another; return the least of each time, and what memory the first took.

    The first opens streams, whose memory is measured.
    """
    found = [_start(bundle, runtime, streams if k == 0 else 0) for k in range(starts)]
    least = {name: min(float(getattr(start, name)) for start in found) for name in TIMES}
    return least | {"resident_mb": found[0].resident_mb, "memory_kb_per_stream": found[0].memory_kb_per_stream}


def measure_daemon_start(model: Model, hop_samples: int, starts: int) -> dict[str, float]:
    """Start so many daemons, one after another, and play each a stream's first hop; return the least of each time.

    The hop is sent as soon as the daemon listens.
    """
    found = [_daemon_start(model, hop_samples) for _ in range(starts)]
    ready_s, first_score_s = (min(times) for times in zip(*found, strict=True))
    return {"daemon_ready_s": ready_s, "daemon_first_score_s": first_score_s}


def _start(bundle: Path, runtime: str, streams: int) -> Start:
    command = [sys.executable, "-c", PROGRAM, str(bundle), runtime, str(streams), str(time.monotonic())]
    done = subprocess.run(command, capture_output=True, timeout=TIMEOUT_S, check=False)  # noqa: S603 - ourselves
    if done.returncode != 0:
        lines = done.stderr.decode(errors="replace").strip().splitlines() or ["it said nothing"]
        raise BenchError(f"a process with {runtime} did not score: {lines[-1]}")
    return msgspec.json.decode(done.stdout, type=Start)


def _daemon_start(model: Model, hop_samples: int) -> tuple[float, float]:
    device, pattern = f"{DEVICE_PREFIX}0", Pattern()
    with running_broker() as broker, Daemon(broker, model, 1) as daemon:
        connection = dial(broker.host, broker.port, "bench-device")
        with contextlib.closing(connection.sock):
            connection.sock.sendall(packets.subscribe(score_topic(device), 0))
            for number in range(-(-hop_samples // CHUNK_SAMPLES)):
                payload = pattern.payload(number, 0, time.time_ns())
                packet, place = packets.publish(wave_topic(device), bytes(payload))
                packet[place : place + 2] = connection.next_number().to_bytes(2, "big")
                connection.sock.sendall(packet)
            if next(connection.messages(SCORE_TIMEOUT_S), None) is None:
                raise BenchError("the daemon did not score the first hop of a stream")
            return daemon.ready_s, time.monotonic() - daemon.begun_s
