"""Signals to compare runtimes on, through the streaming path: PTB-XL, WFDB records or synthetic beats."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from edge.errors import RecordError
from edge.monitor.offline import hops_of
from edge.replay.records import read_recording
from edge.runtime.manifest import Manifest
from edge.signal.leads import STANDARD_LEADS
from trainer.data import records_mv
from trainer.filters import synthetic_beats
from trainer.ptbxl import RATE_HZ, open_ptbxl

Float32Array = NDArray[np.float32]
FloatArray = NDArray[np.float64]


def synthetic_signals(manifest: Manifest, streams: int, seconds: float) -> Float32Array:
    """Return schematic beats as model input (streams, samples, leads): each stream's rate and axis differ."""
    rng = np.random.default_rng(0)
    recordings = [_synthetic_mv(rng, manifest, seconds) for _ in range(streams)]
    rate_hz, leads = manifest.signal.rate_hz, tuple(manifest.leads)
    return lay_out([_model_input(manifest, mv, rate_hz, leads) for mv in recordings], manifest, streams, seconds)


def ptbxl_signals(manifest: Manifest, root: Path, streams: int, seconds: float) -> Float32Array:
    """Return PTB-XL records, one after another, as model input (streams, samples, leads)."""
    data = open_ptbxl(root)
    needed = streams * max(1, round(seconds / manifest.window_s))
    rows = np.linspace(0, len(data.ecg_ids) - 1, min(needed, len(data.ecg_ids)), dtype=np.int64)
    recordings = [_model_input(manifest, mv, RATE_HZ, STANDARD_LEADS) for mv in records_mv(data, rows)]
    return lay_out(recordings, manifest, streams, seconds)


def wfdb_signals(manifest: Manifest, records: Sequence[Path], streams: int, seconds: float) -> Float32Array:
    """Return WFDB records (paths without suffix) as model input (streams, samples, leads).

    Raises RecordError when one cannot be read, LeadsError and SignalError when the model cannot take it.
    """
    read = [read_recording(path) for path in records]
    recordings = [_model_input(manifest, r.samples_mv, r.rate_hz, r.leads) for r in read]
    return lay_out(recordings, manifest, streams, seconds)


def lay_out(recordings: Sequence[Float32Array], manifest: Manifest, streams: int, seconds: float) -> Float32Array:
    """Deal recordings (samples, leads) to streams in turn, one after another until each stream is long enough.

    Streams are whole windows long, at least one, and start with different recordings while there are enough.
    """
    windows = max(1, round(seconds / manifest.window_s))
    samples = windows * manifest.window_samples
    usable = [recording for recording in recordings if len(recording)]
    if not usable:
        raise RecordError("no recording is as long as one hop")
    rows = []
    for stream in range(streams):
        dealt = (usable[k % len(usable)] for k in itertools.count(stream, streams))
        parts = [next(dealt)]
        while sum(map(len, parts)) < samples:
            parts.append(next(dealt))
        rows.append(np.concatenate(parts)[:samples])
    return np.stack(rows)


def _model_input(manifest: Manifest, samples_mv: FloatArray, rate_hz: int, leads: tuple[str, ...]) -> Float32Array:
    hops = hops_of(manifest, samples_mv, rate_hz, leads)
    nothing = np.empty((0, len(manifest.leads)), dtype=np.float32)
    return np.concatenate([nothing, *(hop.frames for hop in hops)])


def _synthetic_mv(rng: np.random.Generator, manifest: Manifest, seconds: float) -> FloatArray:
    rate_hz, leads = manifest.signal.rate_hz, len(manifest.leads)
    beats = synthetic_beats(rate_hz, max(seconds, manifest.window_s), period_s=float(rng.uniform(0.45, 1.2)))
    time_s = np.arange(len(beats)) / rate_hz
    wander = 0.2 * np.sin(2 * np.pi * 0.25 * time_s[:, None] + rng.uniform(0, 2 * np.pi, leads))
    noise = 0.02 * rng.standard_normal((len(beats), leads))
    return np.asarray(beats[:, None] * rng.uniform(-1.5, 1.5, leads) + wander + noise)
