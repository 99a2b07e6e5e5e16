"""A process that scores one hop and tells how long that took since somebody asked for it: see `cold_start`.

`PROGRAM` is what it runs, so that `import edge` is timed before anything else of the package is there.
"""

from __future__ import annotations

import sys
import time
from pathlib import Path

import msgspec
import numpy as np

from edge.bench.processes import resident_mb
from edge.monitor.offline import score_recordings
from edge.runtime.base import Runtime
from edge.runtime.bundle import load_bundle
from edge.runtime.select import open_runtime

PROGRAM = (
    "import sys, time; begun_s = time.monotonic(); import edge; import_s = time.monotonic() - begun_s; "
    "from edge.bench.first_score import main; main(sys.argv[1:], import_s)"
)
STEP_BATCH = 64


class Start(msgspec.Struct, frozen=True):
    """Seconds since the process was asked for, its memory in MiB, and a stream's in KiB."""

    import_edge_s: float
    """Of `import edge` alone."""
    open_s: float
    """Until the bundle's hashes are checked and a runtime has its weights."""
    first_score_s: float
    """Until the first hop of a stream, from millivolts, has a score."""
    resident_mb: float
    memory_kb_per_stream: float


def main(arguments: list[str], import_s: float) -> None:
    """Open BUNDLE in RUNTIME, score a hop, open STREAMS, print what that took since ASKED_S on the machine's clock."""
    path, kind, streams, asked_s = Path(arguments[0]), arguments[1], int(arguments[2]), float(arguments[3])
    runtime = open_runtime(load_bundle(path), kind)
    opened_s = time.monotonic()
    manifest = runtime.bundle.manifest
    hop_mv = np.random.default_rng(0).normal(0.0, 0.2, (manifest.hop_samples, len(manifest.leads)))
    score_recordings(runtime, [hop_mv], manifest.signal.rate_hz, tuple(manifest.leads))
    scored_s, alone_mb = time.monotonic(), resident_mb("self")
    stream_kb = memory_kb_per_stream(runtime, streams) if streams else 0.0
    start = Start(import_s, opened_s - asked_s, scored_s - asked_s, alone_mb, stream_kb)
    sys.stdout.buffer.write(msgspec.json.encode(start))


def memory_kb_per_stream(runtime: Runtime, streams: int) -> float:
    """Return what so many further streams add each; a first batch has shown what a batch needs besides."""
    open_streams(runtime, STEP_BATCH)
    before_mb = resident_mb("self")
    open_streams(runtime, streams)
    return (resident_mb("self") - before_mb) * 1024 / streams


def open_streams(runtime: Runtime, streams: int) -> None:
    """Open streams and step each once, so that its state stands in memory."""
    manifest = runtime.bundle.manifest
    slots = [runtime.open_slot() for _ in range(streams)]
    hop = np.zeros((STEP_BATCH, manifest.hop_samples, len(manifest.leads)), dtype=np.float32)
    for first in range(0, streams, STEP_BATCH):
        chosen = slots[first : first + STEP_BATCH]
        runtime.step(chosen, hop[: len(chosen)])
