"""Hops of many streams in, calibrated scores out: one batch through the runtime."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from edge.monitor.path import Hop
from edge.runtime.base import Runtime, calibrated


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


def score_hops(runtime: Runtime, slots: Sequence[int], hops: Sequence[Hop]) -> list[HopScore]:
    """Advance each slot by its hop, in one batch; slots must be distinct."""
    for slot, hop in zip(slots, hops, strict=True):
        if hop.reset is not None:
            runtime.reset_slot(slot)
    manifest = runtime.bundle.manifest
    logits = runtime.step(slots, np.stack([hop.frames for hop in hops]))
    probabilities = calibrated(manifest.calibration, logits)
    scores = []
    for row, (slot, hop) in enumerate(zip(slots, hops, strict=True)):
        healthy = bool(np.isfinite(logits[row]).all())
        if not healthy:
            runtime.reset_slot(slot)
        ready = healthy and hop.number >= manifest.window_hops
        scores.append(HopScore(hop.last_index, ready, healthy, logits[row], probabilities[row]))
    return scores
