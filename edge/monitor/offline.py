"""The streaming path without a broker: recordings in, the scores of all their hops out."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from edge.monitor.engine import HopScore, ModelStream, score_hops
from edge.monitor.path import Hop, StreamPath
from edge.runtime.base import Runtime
from edge.runtime.manifest import Manifest
from edge.signal.leads import STANDARD_LEADS, is_wanted
from edge.stream.assembler import AssemblerLimits
from edge.stream.runs import Hold, Reset, Run, runs_of

FloatArray = NDArray[np.float64]

BATCH_STREAMS = 64


def score_recordings(
    runtime: Runtime,
    recordings: Sequence[FloatArray],
    rate_hz: int,
    leads: tuple[str, ...] = STANDARD_LEADS,
    on_progress: Callable[[int], None] | None = None,
) -> list[list[HopScore]]:
    """Score recordings, each (samples, leads) in mV, as streams that start cold; NaN is an invalid sample.

    Returns the scores of every complete hop of every recording. `on_progress` is told how many recordings are done.
    """
    scores: list[list[HopScore]] = []
    for start in range(0, len(recordings), BATCH_STREAMS):
        scores += _score_batch(runtime, recordings[start : start + BATCH_STREAMS], rate_hz, leads)
        if on_progress is not None:
            on_progress(len(scores))
    return scores


def hops_of(manifest: Manifest, samples_mv: FloatArray, rate_hz: int, leads: tuple[str, ...]) -> list[Hop]:
    """Cut one recording into hops as a live stream would be."""
    path = StreamPath(manifest, rate_hz, leads)
    runs = recording_runs(samples_mv, rate_hz, leads, tuple(manifest.leads))
    return [hop for run in runs for hop in path.push(run)]


def recording_runs(
    samples_mv: FloatArray, rate_hz: int, leads: tuple[str, ...], wanted_leads: tuple[str, ...]
) -> list[Run]:
    """Cut a recording (samples, leads) where a live stream would start afresh: a wanted lead comes back after long.

    NaN is an invalid sample; what stands in for it is filled in.
    """
    if not len(samples_mv):
        return []
    hold, invalid = Hold.of_nothing(len(leads)), np.isnan(samples_mv).astype(np.uint8)
    hold.start(invalid[0])
    limit, watched = AssemblerLimits().gap_bridge_s * rate_hz, is_wanted(leads, wanted_leads)
    return runs_of(0, samples_mv, invalid, hold, limit, watched, Reset.START)


def _score_batch(
    runtime: Runtime, recordings: Sequence[FloatArray], rate_hz: int, leads: tuple[str, ...]
) -> list[list[HopScore]]:
    manifest = runtime.bundle.manifest
    hops = [hops_of(manifest, recording, rate_hz, leads) for recording in recordings]
    streams = [ModelStream(runtime.open_slot()) for _ in recordings]
    scores: list[list[HopScore]] = [[] for _ in recordings]
    try:
        for step in range(max(map(len, hops), default=0)):
            live = [k for k in range(len(hops)) if step < len(hops[k])]
            batch = score_hops(runtime, [streams[k] for k in live], [hops[k][step] for k in live])
            for k, score in zip(live, batch, strict=True):
                scores[k].append(score)
    finally:
        for stream in streams:
            runtime.close_slot(stream.slot)
    return scores
