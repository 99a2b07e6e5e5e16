"""Hops of many streams in, calibrated scores out: one batch through the runtime."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from edge.monitor.path import Hop
from edge.runtime.base import Runtime, calibrated


@dataclass
class ModelStream:
    """A stream as the model knows it: its slot in the runtime and how much of a window it has seen."""

    slot: int
    hops_seen: int = 0
    """Hops since the last start: the stream is warming until they fill a window."""


@dataclass(frozen=True)
class HopScore:
    """What the model says of the window that ends with a hop."""

    last_index: int
    ready: bool
    """False while fewer hops than a window holds have been seen since the last start: the stream is warming."""
    healthy: bool
    """False when the model's output is not finite; its state has then been reset."""
    logits: NDArray[np.float32]  # (classes,)
    probabilities: NDArray[np.float64]  # (classes,) calibrated


def score_hops(runtime: Runtime, streams: Sequence[ModelStream], hops: Sequence[Hop]) -> list[HopScore]:
    """Advance each stream by its hop, in one batch; the streams must be distinct."""
    for stream, hop in zip(streams, hops, strict=True):
        if hop.reset is not None:
            _restart(runtime, stream)
        stream.hops_seen += 1
    manifest = runtime.bundle.manifest
    logits = runtime.step([stream.slot for stream in streams], np.stack([hop.frames for hop in hops]))
    probabilities = calibrated(manifest.calibration, logits)
    scores = []
    for row, (stream, hop) in enumerate(zip(streams, hops, strict=True)):
        healthy = bool(np.isfinite(logits[row]).all())
        ready = healthy and stream.hops_seen >= manifest.window_hops
        scores.append(HopScore(hop.last_index, ready, healthy, logits[row], probabilities[row]))
        if not healthy:
            _restart(runtime, stream)
    return scores


def _restart(runtime: Runtime, stream: ModelStream) -> None:
    runtime.reset_slot(stream.slot)
    stream.hops_seen = 0
