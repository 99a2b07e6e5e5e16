"""Puts the chunks of one device in order: duplicates, overlaps, late chunks, gaps, sessions, lead recoveries.

What comes out are runs of samples with nothing missing, or a stated reason why what carries state must start afresh.
Time is passed in, so the assembler can be tested without waiting.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np

from edge.signal.invalid import MISSING
from edge.signal.leads import is_wanted
from edge.stream.returns import LATER_NS, RETURN_S, Return
from edge.stream.runs import Hold, Reset, Run, received, runs_of
from edge.stream.wire import MAX_TIME_NS, Chunk, Layout

MAX_PENDING_CHUNKS = 64
MAX_PENDING_S = 120.0
FAR_JUMP_S = 60.0
REMEMBERED_SESSIONS = 8
NS_PER_S = 1_000_000_000


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
    hold: Hold
    time_index: int = 0
    time_ns: int | None = None
    abandoned: int | None = None
    """Where the stream stood before a far jump, in case the jump was one bad index."""
    jumped_to: int = 0
    """Where that jump led."""

    @property
    def rate_hz(self) -> int:
        """Sampling rate of the device."""
        return self.layout.rate_hz

    def expected_ns(self, index: int) -> int | None:
        """Return the time of a sample by the latest chunk that carried one, None before there is one."""
        if self.time_ns is None:
            return None
        return self.time_ns + (index - self.time_index) * NS_PER_S // self.rate_hz


class _Held(NamedTuple):
    """A chunk that waits for a missing one before it."""

    chunk: Chunk
    arrived_s: float


@dataclass
class Assembler:
    """Orders one device's chunks. `push` and `poll` return the runs that are due."""

    limits: AssemblerLimits = field(default_factory=AssemblerLimits)
    counters: AssemblerCounters = field(default_factory=AssemblerCounters)
    wanted: tuple[str, ...] = ()
    """Standard names of the leads whose return after an absence matters; none named, of all."""
    position: Position | None = None
    past_sessions: deque[str] = field(default_factory=lambda: deque(maxlen=REMEMBERED_SESSIONS))
    _pending: dict[int, _Held] = field(default_factory=dict)
    _hole_since_s: float | None = None
    _return: Return | None = None
    _far_end: int | None = None
    """Where the chunk ended that the last far jump led to."""

    @property
    def held(self) -> list[Chunk]:
        """Chunks that wait for a missing one before them, in order."""
        return [self._pending[index].chunk for index in sorted(self._pending)]

    @property
    def waits(self) -> bool:
        """Whether a chunk is missing."""
        return self._hole_since_s is not None

    @property
    def ignores(self) -> bool:
        """Whether the last chunk was of no use: known already, or of an ended session."""
        return self._return is not None

    @property
    def deadline_s(self) -> float | None:
        """When `poll` has something to do, on the clock of `now_s`; None while nothing is missing."""
        return None if self._hole_since_s is None else self._hole_since_s + self.limits.reorder_wait_s

    def push(self, chunk: Chunk, now_s: float) -> list[Run]:
        """Take a chunk as it arrives."""
        self.counters.chunks += 1
        stale = bool(self.past_sessions) and chunk.session in self.past_sessions
        reset = None if stale else self._needs_new_position(chunk)
        if reset is not None:
            return self._begin(chunk, reset)
        assert self.position is not None
        if stale or chunk.end <= self.position.expected:
            if self._has_returned(chunk, now_s):
                return self._begin(chunk, Reset.SESSION if stale else Reset.REWIND)
            self.counters.stale += stale
            self.counters.duplicates += not stale
            return []
        self._return = None
        if chunk.index > self.position.expected:
            return self._hold(chunk, now_s)
        runs = self._accept(chunk)
        return runs + self._release(now_s) if self._pending else runs

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
        time_ns = None if self.position is None else self.position.expected_ns(index)
        return time_ns if time_ns is not None and 0 <= time_ns <= MAX_TIME_NS else None

    def _needs_new_position(self, chunk: Chunk) -> Reset | None:
        position = self.position
        if position is None:
            return Reset.START
        if chunk.session != position.layout.session:
            return Reset.SESSION
        if chunk.end > position.expected:
            return None if chunk.layout == position.layout else Reset.LAYOUT
        expected_ns = position.expected_ns(chunk.index)
        if chunk.time_ns is not None and expected_ns is not None:
            return Reset.REWIND if chunk.time_ns - expected_ns > LATER_NS else None
        return Reset.REWIND if self._was_a_bad_index(chunk, position) else None

    def _was_a_bad_index(self, chunk: Chunk, position: Position) -> bool:
        """Tell whether a chunk goes on where the stream stood before a far jump: unless it has gone on behind it."""
        if position.abandoned is None or position.expected - position.jumped_to > RETURN_S * position.rate_hz:
            return False
        return 0 <= chunk.index - position.abandoned <= FAR_JUMP_S * chunk.rate_hz

    def _has_returned(self, chunk: Chunk, now_s: float) -> bool:
        """Tell whether a device has gone back for good, to an ended session or to an earlier index."""
        position = self.position
        assert position is not None
        expected_ns, newest_ns = position.expected_ns(chunk.index), position.expected_ns(position.expected)
        if chunk.session != position.layout.session:
            expected_ns = None
        if self._return is None:
            self._return = Return()
        return self._return.is_live(chunk, now_s, expected_ns, newest_ns)

    def _begin(self, chunk: Chunk, reset: Reset) -> list[Run]:
        if self.position is not None and reset is Reset.SESSION:
            if chunk.session in self.past_sessions:
                self.past_sessions.remove(chunk.session)
            self.past_sessions.append(self.position.layout.session)
            self._far_end = None
        self._pending.clear()
        self._hole_since_s = self._return = None
        self.position = Position(chunk.layout, chunk.index, Hold.of_nothing(len(chunk.leads)))
        return self._accept(chunk, reset)

    def _hold(self, chunk: Chunk, now_s: float) -> list[Run]:
        if chunk.index in self._pending:
            self.counters.duplicates += 1
            return []
        self._pending[chunk.index] = _Held(chunk, now_s)
        held_s = sum(len(held.chunk.samples) for held in self._pending.values()) / chunk.rate_hz
        if len(self._pending) > MAX_PENDING_CHUNKS or held_s > MAX_PENDING_S:
            return self._skip_hole(now_s)
        self._hole_since_s = self._waits_since_s(now_s if self._hole_since_s is None else self._hole_since_s)
        return []

    def _waits_since_s(self, otherwise_s: float) -> float | None:
        """Return since when the first hole is known, by what came from behind it.

        Of a long one that says little, for its index may be wrong: `otherwise_s` then.
        """
        if not self._pending:
            return None
        assert self.position is not None
        first = min(self._pending)
        is_long = first - self.position.expected > self.limits.gap_bridge_s * self.position.rate_hz
        return otherwise_s if is_long else self._pending[first].arrived_s

    def _release(self, now_s: float) -> list[Run]:
        """Accept held chunks that have become due; the wait for a long hole begins anew, as the stream goes on."""
        assert self.position is not None
        runs: list[Run] = []
        while self._pending:
            first = min(self._pending)
            if first > self.position.expected:
                break
            chunk = self._pending.pop(first).chunk
            if chunk.end > self.position.expected:
                self.counters.late += 1
                runs += self._accept(chunk)
        self._hole_since_s = self._waits_since_s(now_s)
        return runs

    def _skip_hole(self, now_s: float) -> list[Run]:
        """Bridge a short hole, or start afresh behind a long one."""
        position = self.position
        assert position is not None
        chunk = self._pending.pop(min(self._pending)).chunk
        missing = chunk.index - position.expected
        if missing <= self.limits.gap_bridge_s * chunk.rate_hz:
            runs = [self._bridge(chunk, missing), *self._accept(chunk)]
        else:
            self.counters.lost_gaps += 1
            position.abandoned = None
            if missing > FAR_JUMP_S * chunk.rate_hz:
                self._jump(chunk, position)
            position.expected = chunk.index
            runs = self._accept(chunk, Reset.GAP)
        return runs + self._release(now_s)

    def _jump(self, chunk: Chunk, position: Position) -> None:
        """Take note of a far jump; one that goes on where another led is no bad index."""
        goes_on = self._far_end is not None and 0 <= chunk.index - self._far_end <= FAR_JUMP_S * chunk.rate_hz
        self._far_end = chunk.end
        position.abandoned, position.jumped_to = None if goes_on else position.expected, chunk.index
        position.time_ns = None  # what it said may not hold on this side of a wrong index

    def _bridge(self, chunk: Chunk, missing: int) -> Run:
        """Fill a hole with straight lines from the last good values to the next chunk's first."""
        position = self.position
        assert position is not None
        samples_mv, invalid, _ = received(chunk)
        filled = position.hold.bridge(missing, samples_mv[0], invalid[0])
        self.counters.bridged_gaps += 1
        self.counters.bridged_samples += missing
        run = Run(position.expected, filled, np.full(filled.shape, MISSING, dtype=np.uint8))
        position.expected += missing
        return run

    def _accept(self, chunk: Chunk, reset: Reset | None = None) -> list[Run]:
        """Take a chunk that continues the stream, trimmed of what is already known."""
        position = self.position
        assert position is not None
        known = position.expected - chunk.index
        samples_mv, invalid, any_invalid = received(chunk)
        if known:
            samples_mv, invalid = samples_mv[known:], invalid[known:]
        if chunk.time_ns is not None:
            position.time_index, position.time_ns = chunk.index, chunk.time_ns
        start = position.expected
        position.expected = chunk.end
        if reset is not None:
            position.hold.start(invalid[0])
        if any_invalid or position.hold.any_absent:
            limit = self.limits.gap_bridge_s * position.rate_hz
            watched = is_wanted(chunk.leads, self.wanted) if self.wanted else None
            runs = runs_of(start, samples_mv, invalid, position.hold, limit, watched, reset)
            self.counters.resets += sum(run.reset is not None for run in runs)
        else:
            position.hold.keep(samples_mv)
            runs = [Run(start, samples_mv, invalid, reset)]
            self.counters.resets += reset is not None
        self.counters.overlaps += known > 0
        return runs
