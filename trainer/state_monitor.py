"""How large a model's carried state gets on endless streams of the ECG it was trained on: ranges for its monitor.

Watched are the SSM states. They alone reach back further than a fraction of a second: a convolution's tail is flushed
within four frames, and the pool is a window's length of features, not a recurrence.

A limit is LIMIT_FACTOR times the largest size seen. It has room because a block sees normalised input, so that what
its state can hold is bounded whatever the electrodes do: a limit is not there to catch bad signals, which have
conditions of their own, but states that no signal explains.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass

import msgspec
import numpy as np
from numpy.typing import NDArray

from edge.errors import BundleError
from edge.monitor.engine import score_hops
from edge.runtime.base import Runtime, root_mean_square
from edge.runtime.bundle import Bundle
from edge.runtime.manifest import Manifest, StateMonitor, StateRange
from edge.runtime.select import open_runtime
from trainer.data import records_mv
from trainer.ptbxl import PtbXl
from trainer.report import DATA
from trainer.streams.play import RECORD_S, OnProgress, OpenStreams, Stream, Tape, hops_per_record

FloatArray = NDArray[np.float64]
Rows = NDArray[np.int64]

WATCHED_PREFIX = "ssm_"
LIMIT_FACTOR = 3.0
"""The tail is long, so other records may well go beyond the largest seen; and a patient whose own ECG was out of range
would be reset again and again and never be monitored, while a state that is damaged is off by orders of magnitude."""
DIGITS = 6


@dataclass(frozen=True)
class StreamSettings:
    """What is played; the same settings and records give the same figures."""

    streams: int = 32
    seconds: float = 600.0
    seed: int = 0

    @property
    def turns(self) -> int:
        """Records that each stream plays."""
        return max(1, round(self.seconds / RECORD_S))


def watched_tensors(bundle: Bundle) -> list[str]:
    """Return the names of the tensors to watch; raises BundleError when the model carries none."""
    names = [tensor.name for tensor in bundle.manifest.state if tensor.name.startswith(WATCHED_PREFIX)]
    if not names:
        raise BundleError(bundle.path, f"carries no state to watch (tensors named {WATCHED_PREFIX}0 and so on)")
    return names


def measure_monitor(
    bundle: Bundle, data: PtbXl, folds: Sequence[int], settings: StreamSettings, on_progress: OnProgress
) -> StateMonitor:
    """Play streams of records of these folds from a cold start; return the ranges of the states seen on the way.

    Raises BundleError when the model carries no state to watch, or does not fit PTB-XL's records.
    """
    names = watched_tensors(bundle)
    hops_per_record(bundle)
    # Without a monitor that it may already have, which would reset what is to be measured.
    unwatched = Bundle(bundle.path, watched_manifest(bundle.manifest, None))
    runtime = open_runtime(unwatched, threads=os.cpu_count() or 1)
    playlists = _playlists(data.rows(folds), settings)
    sizes = _state_sizes(runtime, data, playlists, names, on_progress)
    filling = min(bundle.manifest.window_hops, len(sizes) // 2)  # what a state is meanwhile says little
    settled = sizes[filling:]
    origin = {
        "data": DATA,
        "folds": list(folds),
        **asdict(settings),
        "seconds": settings.turns * RECORD_S,
        "hops": settled[..., 0].size,
        "runtime": runtime.name,
        "limit": f"{LIMIT_FACTOR:g} x max",
    }
    return StateMonitor({name: range_of(settled[..., k]) for k, name in enumerate(names)}, origin)


def range_of(sizes: FloatArray) -> StateRange:
    """Return the range of a tensor from its sizes, of any shape, on ECG like the model's own."""
    p50, p99, p99_9, highest = (_rounded(size) for size in np.percentile(sizes, [50, 99, 99.9, 100]))
    return StateRange(p50, p99, p99_9, highest, limit=_rounded(LIMIT_FACTOR * highest))


def watched_manifest(before: Manifest, monitor: StateMonitor | None) -> Manifest:
    """Return the manifest with this monitor in it, or with none."""
    return msgspec.structs.replace(before, state_monitor=monitor)


def _playlists(rows: Rows, settings: StreamSettings) -> Rows:
    """Return (streams, turns): the records in random order, again from the first when there are too few."""
    shuffled = np.random.default_rng(settings.seed).permutation(rows)
    return np.resize(shuffled, (settings.streams, settings.turns))


def _state_sizes(
    runtime: Runtime, data: PtbXl, playlists: Rows, names: Sequence[str], on_progress: OnProgress
) -> FloatArray:
    """Play all streams at once; return the root mean squares (hops, streams, tensors) after each hop."""
    manifest, sizes = runtime.bundle.manifest, []
    with OpenStreams(runtime) as opened:
        streams = [opened.add(Tape(manifest)) for _ in playlists]
        for rows in playlists.T:
            signals = records_mv(data, rows)
            hops = [stream.tape.play(of_stream) for stream, of_stream in zip(streams, signals, strict=True)]
            for together in zip(*hops, strict=True):
                score_hops(runtime, [stream.model for stream in streams], together)
                sizes.append([_sizes(runtime, stream, names) for stream in streams])
            on_progress(len(rows))
    return np.array(sizes)


def _sizes(runtime: Runtime, stream: Stream, names: Sequence[str]) -> list[float]:
    state = runtime.save_slot(stream.model.slot)
    return [root_mean_square(state[name]) for name in names]


def _rounded(size: float) -> float:
    """Round to as many significant digits as mean something."""
    return float(f"{size:.{DIGITS}g}")
