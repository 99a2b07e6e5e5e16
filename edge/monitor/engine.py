"""Hops of many streams in, calibrated scores out: one batch through the runtime, and a look at the state it carries."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum

import msgspec
import numpy as np
from numpy.typing import NDArray

from edge.monitor.path import Hop
from edge.monitor.votes import Votes, mean_logits, with_vote
from edge.runtime.base import Float32Array, Runtime, calibrated
from edge.runtime.manifest import StateMonitor
from edge.runtime.state_monitor import StateCheck, check_state

CHECK_EVERY_S = 10.0
"""How much of a stream goes by between two looks at its state while that is in range. Streams that began together
are not looked at together; the first hop after a start or a restart is always looked at."""

STRIKES = 3
"""Hops in a row whose state is out of range before it is given up: a reset costs a window's length of warming."""


class Fault(str, Enum):
    """Why a hop's score is void; the value is what a reset is counted under."""

    OUTPUT = "model_output"
    """The model's output is not finite."""
    STATE = "model_state"
    """The carried state is not finite, or has been out of range for STRIKES hops."""


@dataclass
class ModelStream:
    """A stream as the model knows it: its slot in the runtime, how much of a window it has seen, how its state is."""

    slot: int
    hops_seen: int = 0
    """Hops since the last start: the stream is warming until they fill a window."""
    state: StateCheck | None = None
    """The last look at the state since the last start. Any thread may read it."""
    strikes: int = 0
    """Hops in a row with the state out of range; while there are any, every hop is looked at."""
    votes: Votes | None = None
    """Of the last hops since the start, as many as a window's score is the mean of; None where a score is one vote."""


class HopScore(msgspec.Struct, frozen=True):
    """What the model says of the window that ends with a hop."""

    last_index: int
    ready: bool
    """False while fewer hops than a window holds have been seen since the last start (the stream is warming), and while
    the state is in doubt."""
    fault: Fault | None
    """Set when the score is void; the state has then been reset."""
    logits: NDArray[np.float32]  # (classes,)
    probabilities: NDArray[np.float64]  # (classes,) calibrated
    state: StateCheck | None = None
    """The state after this hop, where it was looked at."""

    @property
    def healthy(self) -> bool:
        """Whether the score means anything."""
        return self.fault is None


def score_hops(runtime: Runtime, streams: Sequence[ModelStream], hops: Sequence[Hop]) -> list[HopScore]:
    """Advance each stream by its hop, in one batch; the streams must be distinct."""
    said = runtime.step(*step_for(runtime, streams, hops))
    return scores_of(runtime, streams, hops, said)


def step_for(
    runtime: Runtime, streams: Sequence[ModelStream], hops: Sequence[Hop]
) -> tuple[Sequence[int], Float32Array]:
    """Return what `Runtime.step` is to be given to advance each stream by its hop, and start afresh who has to."""
    for stream, hop in zip(streams, hops, strict=True):
        if hop.reset is not None:
            _restart(runtime, stream)
        stream.hops_seen += 1
    return [stream.slot for stream in streams], _stacked(hops)


def scores_of(
    runtime: Runtime, streams: Sequence[ModelStream], hops: Sequence[Hop], said: Float32Array
) -> list[HopScore]:
    """Return the scores of streams from what their step said (streams, classes), with a look at their states."""
    manifest = runtime.bundle.manifest
    finite: list[bool] = np.all(np.isfinite(said), axis=1).tolist()
    logits = said if manifest.votes == 1 else _mean_of_votes(manifest.votes, streams, said, finite)
    probabilities = calibrated(manifest.calibration, logits)
    window_hops, check_every = manifest.window_hops, max(1, round(CHECK_EVERY_S / manifest.hop_s))
    monitor = manifest.state_monitor
    scores = []
    for row, (stream, hop) in enumerate(zip(streams, hops, strict=True)):
        state = None
        if monitor is not None and finite[row] and _is_due(stream, check_every):
            state = _look_at_state(monitor, runtime, stream)
        fault = _fault(finite[row], state, stream.strikes)
        ready = fault is None and stream.strikes == 0 and stream.hops_seen >= window_hops
        scores.append(HopScore(hop.last_index, ready, fault, logits[row], probabilities[row], state))
        if fault is not None:
            _restart(runtime, stream)
    return scores


def _stacked(hops: Sequence[Hop]) -> Float32Array:
    """Return the frames of all hops, (hops, samples, leads).

    As `np.stack` does, but that lets the interpreter go for each hop, and may wait for it each time.
    """
    together = b"".join([np.ascontiguousarray(hop.frames).data for hop in hops])
    return np.frombuffer(together, dtype=np.float32).reshape(len(hops), *hops[0].frames.shape)


def _mean_of_votes(
    kept: int, streams: Sequence[ModelStream], said: Float32Array, finite: Sequence[bool]
) -> Float32Array:
    """Take the votes (streams, classes) of a hop; return the logits of the windows that end with it.

    What is not finite is no vote and stays what it is, for its stream to be restarted.
    """
    logits: Float32Array = said.copy()
    votes: list[Votes] = []
    for stream, vote, counts in zip(streams, said, finite, strict=True):
        if counts:
            stream.votes = with_vote(stream.votes, vote, kept)
            votes.append(stream.votes)
    if votes:
        logits[finite] = mean_logits(votes)
    return logits


def _look_at_state(monitor: StateMonitor, runtime: Runtime, stream: ModelStream) -> StateCheck:
    """Check a stream's state, and keep count of strikes."""
    check = check_state(monitor, runtime.state_sizes(stream.slot))
    stream.strikes = stream.strikes + 1 if check.out_of_range else 0
    if check.finite:  # one that is not ends in a restart at once, and whoever reads `state` meets numbers only
        stream.state = check
    return check


def _is_due(stream: ModelStream, every: int) -> bool:
    """Whether a stream's state is to be looked at after this hop: after every so many."""
    return stream.state is None or stream.strikes > 0 or (stream.hops_seen + stream.slot) % every == 0


def _fault(finite: bool, state: StateCheck | None, strikes: int) -> Fault | None:
    if not finite:
        return Fault.OUTPUT
    lost = state is not None and (not state.finite or strikes >= STRIKES)
    return Fault.STATE if lost else None


def _restart(runtime: Runtime, stream: ModelStream) -> None:
    runtime.reset_slot(stream.slot)
    stream.hops_seen, stream.state, stream.strikes, stream.votes = 0, None, 0, None
