"""Puts the chunks of one device in order: duplicates, overlaps, late chunks, gaps, sessions, lead recoveries.

What comes out are runs of samples with nothing missing, or a stated reason why what carries state must start afresh.
Time is passed in, so the assembler can be tested without waiting.
"""

from __future__ import annotations

import itertools
from collections import deque
from dataclasses import dataclass, field
from enum import Enum

import msgspec
import numpy as np
from numpy.typing import NDArray

from edge.stream.wire import MAX_TIME_NS, Chunk, Layout, to_millivolts

MAX_PENDING_CHUNKS = 64
FAR_JUMP_S = 60.0
REMEMBERED_SESSIONS = 8


class Reset(str, Enum):
    """Why carried state must not go on."""

    START = "start"
    SESSION = "session"
    LAYOUT = "layout"
    GAP = "gap"
    REWIND = "rewind"
    LEAD_RECOVERY = "lead_recovery"
    OVERLOAD = "overload"


class Run(msgspec.Struct, frozen=True):
    """Consecutive samples, all (samples, leads) in the device's rate and lead order; nothing in them is NaN."""

    index: int
    samples_mv: NDArray[np.float64]
    invalid: NDArray[np.bool_]
    reset: Reset | None = None
    """Set when state must start afresh at the first of these samples."""

    @property
    def end(self) -> int:
        """Index one past the last sample."""
        return self.index + len(self.samples_mv)


@dataclass
class AssemblerCounters:
    """What the assembler met, for metrics and tests."""

    chunks: int = 0
    duplicates: int = 0
    overlaps: int = 0
    late: int = 0
    stale: int = 0
    bridged_gaps: int = 0
    bridged_samples: int = 0
    lost_gaps: int = 0
    resets: int = 0

    @property
    def eventful(self) -> bool:
        """Whether anything but chunks in good order was met."""
        late_or_double = self.duplicates or self.overlaps or self.late or self.stale
        return bool(late_or_double or self.bridged_gaps or self.lost_gaps or self.resets)

    def add(self, other: AssemblerCounters) -> None:
        """Add what another one has counted."""
        for name, value in vars(other).items():
            setattr(self, name, getattr(self, name) + value)


@dataclass(frozen=True)
class AssemblerLimits:
    """How long to wait and how much to bridge."""

    gap_bridge_s: float = 2.0
    reorder_wait_s: float = 0.5


@dataclass
class Position:
    """Where a session stands: everything the assembler must remember across a restart of the daemon."""

    layout: Layout
    expected: int
    last_mv: NDArray[np.float64]  # (leads,) last good value of each lead
    invalid_run: NDArray[np.int64]  # (leads,) invalid samples since then
    time_index: int = 0
    time_ns: int | None = None
    abandoned: int | None = None
    """Where the stream stood before a far jump, in case the jump was one bad index."""

    def __post_init__(self) -> None:
        self.all_valid = not self.invalid_run.any()
        """Whether the newest sample of every lead was valid: asked for with every chunk."""

    @property
    def rate_hz(self) -> int:
        """Sampling rate of the device."""
        return self.layout.rate_hz


@dataclass
class Assembler:
    """Orders one device's chunks. `push` and `poll` return the runs that are due."""

    limits: AssemblerLimits = field(default_factory=AssemblerLimits)
    counters: AssemblerCounters = field(default_factory=AssemblerCounters)
    position: Position | None = None
    past_sessions: deque[str] = field(default_factory=lambda: deque(maxlen=REMEMBERED_SESSIONS))
    _pending: dict[int, Chunk] = field(default_factory=dict)
    _hole_since_s: float | None = None

    @property
    def held(self) -> list[Chunk]:
        """Chunks that wait for a missing one before them, in order."""
        return [self._pending[index] for index in sorted(self._pending)]

    @property
    def waits(self) -> bool:
        """Whether a chunk is missing."""
        return self._hole_since_s is not None

    @property
    def deadline_s(self) -> float | None:
        """When `poll` has something to do, on the clock of `now_s`; None while nothing is missing."""
        return None if self._hole_since_s is None else self._hole_since_s + self.limits.reorder_wait_s

    def push(self, chunk: Chunk, now_s: float) -> list[Run]:
        """Take a chunk as it arrives."""
        self.counters.chunks += 1
        if chunk.session in self.past_sessions:
            self.counters.stale += 1
            return []
        reset = self._needs_new_position(chunk)
        if reset is not None:
            return self._begin(chunk, reset)
        assert self.position is not None
        if chunk.end <= self.position.expected:
            self.counters.duplicates += 1
            return []
        if chunk.index > self.position.expected:
            return self._hold(chunk, now_s)
        return self._accept(chunk) + self._release(now_s)

    def poll(self, now_s: float) -> list[Run]:
        """Give up waiting for what is overdue."""
        deadline_s = self.deadline_s
        if deadline_s is None or now_s < deadline_s:
            return []
        return self._skip_hole(now_s)

    def time_ns_of(self, index: int) -> int | None:
        """UTC time of a sample by the latest chunk that carried one; the index alone decides the distance.

        None before there is one, and for a sample centuries away, as a wrong index makes it.
        """
        position = self.position
        if position is None or position.time_ns is None:
            return None
        time_ns = position.time_ns + (index - position.time_index) * 1_000_000_000 // position.rate_hz
        return time_ns if 0 <= time_ns <= MAX_TIME_NS else None

    def _needs_new_position(self, chunk: Chunk) -> Reset | None:
        position = self.position
        if position is None:
            return Reset.START
        if chunk.session != position.layout.session:
            return Reset.SESSION
        if chunk.layout != position.layout:
            return Reset.LAYOUT
        if chunk.end > position.expected:
            return None
        if position.abandoned is not None and 0 <= chunk.index - position.abandoned <= FAR_JUMP_S * chunk.rate_hz:
            return Reset.REWIND
        newer = chunk.time_ns is not None and position.time_ns is not None and chunk.time_ns > position.time_ns
        return Reset.REWIND if newer else None

    def _begin(self, chunk: Chunk, reset: Reset) -> list[Run]:
        if self.position is not None and reset is Reset.SESSION:
            self.past_sessions.append(self.position.layout.session)
        self._pending.clear()
        self._hole_since_s = None
        leads = len(chunk.leads)
        self.position = Position(chunk.layout, chunk.index, np.zeros(leads), np.zeros(leads, dtype=np.int64))
        return self._accept(chunk, reset)

    def _hold(self, chunk: Chunk, now_s: float) -> list[Run]:
        if chunk.index in self._pending:
            self.counters.duplicates += 1
            return []
        self._pending[chunk.index] = chunk
        if self._hole_since_s is None:
            self._hole_since_s = now_s
        return self._skip_hole(now_s) if len(self._pending) > MAX_PENDING_CHUNKS else []

    def _release(self, now_s: float) -> list[Run]:
        """Accept held chunks that have become due; the wait for a remaining hole begins anew."""
        assert self.position is not None
        runs: list[Run] = []
        while self._pending:
            first = min(self._pending)
            if first > self.position.expected:
                break
            chunk = self._pending.pop(first)
            if chunk.end > self.position.expected:
                self.counters.late += 1
                runs += self._accept(chunk)
        self._hole_since_s = now_s if self._pending else None
        return runs

    def _skip_hole(self, now_s: float) -> list[Run]:
        """Bridge a short hole, or start afresh behind a long one."""
        position = self.position
        assert position is not None
        chunk = self._pending.pop(min(self._pending))
        missing = chunk.index - position.expected
        if missing <= self.limits.gap_bridge_s * chunk.rate_hz:
            runs = [self._bridge(chunk, missing), *self._accept(chunk)]
        else:
            self.counters.lost_gaps += 1
            position.abandoned = position.expected if missing > FAR_JUMP_S * chunk.rate_hz else None
            position.expected = chunk.index
            runs = self._accept(chunk, Reset.GAP)
        return runs + self._release(now_s)

    def _bridge(self, chunk: Chunk, missing: int) -> Run:
        """Fill a hole with straight lines from the last good values to the next chunk's first."""
        position = self.position
        assert position is not None
        first_mv = to_millivolts(chunk)[0][0]
        first_mv = np.where(np.isnan(first_mv), position.last_mv, first_mv)
        steps = np.arange(1, missing + 1)[:, None] / (missing + 1)
        filled = position.last_mv + steps * (first_mv - position.last_mv)
        self.counters.bridged_gaps += 1
        self.counters.bridged_samples += missing
        run = Run(position.expected, filled, np.ones(filled.shape, dtype=bool))
        position.expected += missing
        position.last_mv = filled[-1].copy()
        return run

    def _accept(self, chunk: Chunk, reset: Reset | None = None) -> list[Run]:
        """Take a chunk that continues the stream, trimmed of what is already known."""
        position = self.position
        assert position is not None
        known = position.expected - chunk.index
        self.counters.overlaps += known > 0
        self.counters.resets += reset is not None
        samples_mv, invalid, any_invalid = to_millivolts(chunk)
        if chunk.flags.lead_off:
            any_invalid = True
            for lead in range(len(chunk.leads)):
                if chunk.flags.lead_off >> lead & 1:
                    invalid[:, lead] = True
        samples_mv, invalid = samples_mv[known:], invalid[known:]
        if chunk.time_ns is not None:
            position.time_index, position.time_ns = chunk.index, chunk.time_ns
        start = position.expected
        position.expected = chunk.end
        if not any_invalid and position.all_valid:
            position.last_mv = samples_mv[-1].copy()
            return [Run(start, samples_mv, invalid, reset)]
        return self._fill(start, samples_mv, invalid, reset)

    def _fill(
        self, start: int, samples_mv: NDArray[np.float64], invalid: NDArray[np.bool_], reset: Reset | None
    ) -> list[Run]:
        """Hold the last good value over invalid samples and cut where a lead comes back after a long absence."""
        position = self.position
        assert position is not None
        filled, runs_before = hold_last_good(samples_mv, invalid, position.last_mv, position.invalid_run)
        limit = self.limits.gap_bridge_s * position.rate_hz
        recovered = np.any((runs_before > limit) & ~invalid, axis=1)  # (samples,)
        position.last_mv = filled[-1].copy()
        position.invalid_run = np.where(invalid[-1], runs_before[-1] + 1, 0)
        position.all_valid = not invalid[-1].any()
        cuts = [0, *(int(at) for at in np.flatnonzero(recovered) if at > 0), len(filled)]
        runs = []
        for begin, end in itertools.pairwise(cuts):
            why = Reset.LEAD_RECOVERY if recovered[begin] else None
            self.counters.resets += why is not None
            runs.append(Run(start + begin, filled[begin:end], invalid[begin:end], why if begin or why else reset))
        return runs


def hold_last_good(
    samples_mv: NDArray[np.float64],
    invalid: NDArray[np.bool_],
    last_mv: NDArray[np.float64],
    invalid_run: NDArray[np.int64],
) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """Replace invalid samples by the lead's last good value.

    Returns (filled, runs_before), both (samples, leads); runs_before counts the invalid samples right before each.
    """
    count = len(samples_mv)
    steps = np.arange(count)[:, None]
    last_good = np.maximum.accumulate(np.where(invalid, -1, steps), axis=0)  # (samples, leads), -1: none yet
    filled = np.where(last_good >= 0, np.take_along_axis(samples_mv, np.maximum(last_good, 0), axis=0), last_mv)
    before = np.vstack([np.full((1, samples_mv.shape[1]), -1), last_good[:-1]])
    runs_before = np.where(before >= 0, steps - 1 - before, steps + invalid_run)
    return filled, runs_before
