"""Long streams made of short records: one signal through the device's own path, hop by hop, many streams at once.

How records are joined. A record starts at whatever level its electrodes had, so records put end to end meet in a step
that no real stream has, and the first-order 0.05 Hz high-pass carries such a step for seconds (its time constant is
3.2 s). Joins are therefore *matched*: a record is shifted, lead by lead, so that the mean of its first second is the
mean of the last second before it. A mean over a second is no single sample of a QRS complex; being linear, the shift
leaves Einthoven's law whole; and nothing of the record itself changes, since a constant is what the high-pass takes
away. *Hard* joins leave the step in: what the same figures are when electrodes are plugged over without a reset. What
remains of either join is a beat cut off in the middle, once per record.

The front-end and the model carry their state across joins, as a daemon that was not told of a change would.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from edge.errors import BundleError
from edge.monitor.engine import ModelStream, score_hops
from edge.monitor.path import Hop, StreamPath
from edge.monitor.votes import Votes
from edge.runtime.base import Runtime
from edge.runtime.bundle import Bundle
from edge.runtime.manifest import Manifest
from edge.signal.leads import STANDARD_LEADS
from edge.stream.runs import Reset, Run
from trainer.data import records_mv
from trainer.ptbxl import RATE_HZ, RECORD_SAMPLES, PtbXl

FloatArray = NDArray[np.float64]
Float32Array = NDArray[np.float32]
BoolArray = NDArray[np.bool_]
Rows = NDArray[np.int64]
OnProgress = Callable[[int], None]
"""Told how many records have been played since it was told last."""

JOINS = ("matched", "hard")
RECORD_S = RECORD_SAMPLES / RATE_HZ
LEVEL_SAMPLES = RATE_HZ
BATCH_STREAMS = 64


def nobody(records: int) -> None:
    """Hear of progress and do nothing."""


def hops_per_record(bundle: Bundle) -> int:
    """Return how many hops a record makes, wherever in a stream it stands.

    Raises BundleError when records do not end at hop edges, or when the model does not run at their rate.
    """
    manifest = bundle.manifest
    if manifest.signal.rate_hz != RATE_HZ or RECORD_SAMPLES % manifest.hop_samples != 0:
        raise BundleError(
            bundle.path,
            f"runs at {manifest.signal.rate_hz} Hz in hops of {manifest.hop_s:g} s; streams of PTB-XL records need "
            f"{RATE_HZ} Hz and hops that divide {RECORD_S:g} s",
        )
    return RECORD_SAMPLES // manifest.hop_samples


class Tape:
    """One stream's signal: records joined, through the front-end, cut into hops."""

    def __init__(self, manifest: Manifest, joins: str = "matched") -> None:
        self._manifest, self._joins = manifest, joins
        self._path = StreamPath(manifest, RATE_HZ, STANDARD_LEADS)
        self._index = 0
        self._level_mv: FloatArray | None = None  # (leads,) mean of the last second

    def play(self, record_mv: FloatArray) -> list[Hop]:
        """Play a record (samples, leads) behind what was played before; return the hops it completes."""
        first = self._level_mv is None
        if self._level_mv is not None and self._joins == "matched":
            record_mv = record_mv + (self._level_mv - record_mv[:LEVEL_SAMPLES].mean(axis=0))
        self._level_mv = record_mv[-LEVEL_SAMPLES:].mean(axis=0)
        run = Run(self._index, record_mv, np.zeros(record_mv.shape, dtype=np.uint8), Reset.START if first else None)
        self._index = run.end
        return self._path.push(run)

    def fork(self) -> Tape:
        """Return another stream with the same past."""
        other = Tape(self._manifest, self._joins)
        other._path.load(self._path.save())
        other._index, other._level_mv = self._index, self._level_mv
        return other


@dataclass
class Stream:
    """A stream in play: its signal, and its place in the runtime."""

    tape: Tape
    model: ModelStream


class OpenStreams:
    """Streams whose places in the runtime are given back at the end. Use it as a context manager."""

    def __init__(self, runtime: Runtime) -> None:
        self._runtime = runtime
        self._slots: list[int] = []

    def __enter__(self) -> OpenStreams:
        return self

    def __exit__(self, *_: object) -> None:
        for slot in self._slots:
            self._runtime.close_slot(slot)

    def model(self, hops_seen: int = 0, votes: Votes | None = None) -> ModelStream:
        """Open a place in the runtime."""
        self._slots.append(self._runtime.open_slot())
        return ModelStream(self._slots[-1], hops_seen, votes=votes)

    def add(self, tape: Tape, hops_seen: int = 0, votes: Votes | None = None) -> Stream:
        """Open a stream that plays this tape."""
        return Stream(tape, self.model(hops_seen, votes))


class Said(NamedTuple):
    """What the model says of several streams, hop by hop."""

    logits: Float32Array  # (streams, hops, classes)
    ready: BoolArray  # (streams, hops) False where a device would not rely on it: warming, or the state is in doubt


def play_turn(runtime: Runtime, streams: Sequence[Stream], record_mv: FloatArray) -> Said:
    """Let each stream play one record (streams, samples, leads)."""
    hops = [stream.tape.play(of_stream) for stream, of_stream in zip(streams, record_mv, strict=True)]
    return advance(runtime, [stream.model for stream in streams], hops)


def advance(runtime: Runtime, models: Sequence[ModelStream], hops: Sequence[Sequence[Hop]]) -> Said:
    """Take equally many hops of each stream, in one batch per hop."""
    scores = [score_hops(runtime, models, together) for together in zip(*hops, strict=True)]
    logits = np.array([[score.logits for score in at_hop] for at_hop in scores], dtype=np.float32)
    ready = np.array([[score.ready for score in at_hop] for at_hop in scores], dtype=bool)
    return Said(np.ascontiguousarray(logits.swapaxes(0, 1)), np.ascontiguousarray(ready.T))


def joined(parts: Sequence[Said], axis: int) -> Said:
    """Put what was said of other streams (axis 0) or of later hops (axis 1) together."""
    return Said(*(np.concatenate(arrays, axis=axis) for arrays in zip(*parts, strict=True)))


def play_all(
    runtime: Runtime, data: PtbXl, playlists: Sequence[Rows], joins: str, on_progress: OnProgress = nobody
) -> list[Said]:
    """Play streams from a cold start to their ends, in batches; return what is said of each, one stream a piece.

    A playlist holds rows of `data`; it may be shorter than others.
    """
    said: dict[int, Said] = {}
    order = sorted(range(len(playlists)), key=lambda k: len(playlists[k]))  # alike lengths together
    for start in range(0, len(order), BATCH_STREAMS):
        chosen = order[start : start + BATCH_STREAMS]
        parts = _play_together(runtime, data, [playlists[k] for k in chosen], joins, on_progress)
        for k, part in zip(chosen, parts, strict=True):
            said[k] = joined(part, axis=1)
    return [said[k] for k in range(len(playlists))]


def _play_together(
    runtime: Runtime, data: PtbXl, playlists: Sequence[Rows], joins: str, on_progress: OnProgress
) -> list[list[Said]]:
    """Return what is said of each stream, turn by turn."""
    parts: list[list[Said]] = [[] for _ in playlists]
    with OpenStreams(runtime) as opened:
        streams = [opened.add(Tape(runtime.bundle.manifest, joins)) for _ in playlists]
        for turn in range(max(map(len, playlists), default=0)):
            live = [k for k, rows in enumerate(playlists) if turn < len(rows)]
            record_mv = records_mv(data, np.array([playlists[k][turn] for k in live]))
            said = play_turn(runtime, [streams[k] for k in live], record_mv)
            for row, k in enumerate(live):
                parts[k].append(Said(said.logits[row : row + 1], said.ready[row : row + 1]))
            on_progress(len(live))
    return parts
