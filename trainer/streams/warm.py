"""Records scored on streams that have run for a while: cold, and after minutes of other patients' ECG.

To let every record follow an hour of ECG of its own would take weeks of signal. Instead some streams run for the
longest time; at each time asked for they are held, and every record is played from a copy of one of them, in which
its own patient does not occur. At second 10 of the record a window of 10 s holds nothing else, as it does from a cold
start: what differs is the state that came before.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from edge.monitor.votes import Votes
from edge.runtime.base import Runtime, State
from trainer.data import records_mv
from trainer.ptbxl import PtbXl
from trainer.streams.play import BATCH_STREAMS, RECORD_S, OnProgress, OpenStreams, Said, Tape, joined, nobody, play_turn

Rows = NDArray[np.int64]

SECONDS_PER_MINUTE = 60.0


@dataclass(frozen=True)
class Past:
    """Streams held after some minutes."""

    minutes: float
    tapes: list[Tape]
    states: list[State]
    hops_seen: list[int]
    votes: list[Votes | None]


def random_playlists(rows: Rows, streams: int, minutes: float, seed: int) -> list[Rows]:
    """Return what streams of other records play: all records in random order, again and again until time is up."""
    rng = np.random.default_rng(seed)
    turns = turns_of(minutes)
    rounds = -(-turns // len(rows))
    return [np.concatenate([rng.permutation(rows) for _ in range(rounds)])[:turns] for _ in range(streams)]


def turns_of(minutes: float) -> int:
    """Return how many records fill so many minutes."""
    return max(1, round(minutes * SECONDS_PER_MINUTE / RECORD_S))


def pasts(
    runtime: Runtime, data: PtbXl, playlists: Sequence[Rows], minutes: Sequence[float], joins: str,
    on_progress: OnProgress = nobody,
) -> Iterator[Past]:  # fmt: skip
    """Let streams play and give them as they stand after each of these times, which must rise."""
    waiting = {turns_of(m): m for m in minutes}
    with OpenStreams(runtime) as opened:
        streams = [opened.add(Tape(runtime.bundle.manifest, joins)) for _ in playlists]
        for number in range(max(waiting, default=0)):
            play_turn(runtime, streams, records_mv(data, np.array([rows[number] for rows in playlists])))
            on_progress(len(streams))
            if number + 1 in waiting:
                yield Past(
                    minutes=waiting[number + 1],
                    tapes=[stream.tape.fork() for stream in streams],
                    states=[runtime.save_slot(stream.model.slot) for stream in streams],
                    hops_seen=[stream.model.hops_seen for stream in streams],
                    votes=[stream.model.votes for stream in streams],
                )


def score_after(
    runtime: Runtime, data: PtbXl, rows: Rows, past: Past, chosen: NDArray[np.int64], on_progress: OnProgress = nobody
) -> Said:
    """Play each record from a copy of its chosen stream; the records are the streams of what is returned."""
    parts = []
    for start in range(0, len(rows), BATCH_STREAMS):
        block, after = rows[start : start + BATCH_STREAMS], chosen[start : start + BATCH_STREAMS].tolist()
        with OpenStreams(runtime) as opened:
            streams = [opened.add(past.tapes[k].fork(), past.hops_seen[k], past.votes[k]) for k in after]
            for stream, k in zip(streams, after, strict=True):
                runtime.load_slot(stream.model.slot, past.states[k])
            parts.append(play_turn(runtime, streams, records_mv(data, block)))
        on_progress(len(block))
    return joined(parts, axis=0)


def score_cold(runtime: Runtime, data: PtbXl, rows: Rows, joins: str, on_progress: OnProgress = nobody) -> Said:
    """Play each record as a stream of its own."""
    parts = []
    for start in range(0, len(rows), BATCH_STREAMS):
        block = rows[start : start + BATCH_STREAMS]
        with OpenStreams(runtime) as opened:
            streams = [opened.add(Tape(runtime.bundle.manifest, joins)) for _ in block]
            parts.append(play_turn(runtime, streams, records_mv(data, block)))
        on_progress(len(block))
    return joined(parts, axis=0)


def strangers(data: PtbXl, rows: Rows, playlists: Sequence[Rows], seed: int) -> NDArray[np.int64]:
    """Choose for each record a stream that its patient is not in; where all streams have them, any."""
    rng = np.random.default_rng(seed)
    present = [set(data.patient_ids[rows_of].tolist()) for rows_of in playlists]
    chosen = []
    for patient in data.patient_ids[rows].tolist():
        order = rng.permutation(len(playlists)).tolist()
        chosen.append(next((k for k in order if patient not in present[k]), order[0]))
    return np.array(chosen)
