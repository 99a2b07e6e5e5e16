"""Whether chunks that are of no use, known already or of an ended session, are a live stream all the same.

A device may begin again at index 0 without saying so, or go on in a session that another one seemed to have ended. Then
the patient is there, and nobody would look after them. What is sent again from a buffer looks different: it is faster
than a live stream, or stands still, or its times say what it is.
"""

from __future__ import annotations

from typing import NamedTuple

from edge.stream.wire import Chunk

LATER_NS = 1_000_000_000
"""An index that comes again with a time so much later is a new beginning; with less it is a copy."""
RETURN_S = 5.0
"""For so long chunks must go on as a live stream does."""
RETURN_ANYWAY_S = 60.0
"""For so long, when they are of another session and their times are older than what is known."""
PACE = 2.0
"""A live stream is at most so many times as fast or as slow as the clock."""


class _Row(NamedTuple):
    """Chunks of a session, one after the other."""

    session: str
    first_index: int
    since_s: float
    end: int
    last_s: float

    def goes_on(self, chunk: Chunk, now_s: float) -> bool:
        """Whether a chunk is the next of them."""
        soon = now_s - self.last_s <= max(RETURN_S, PACE * len(chunk.samples) / chunk.rate_hz)
        return soon and chunk.session == self.session and 0 <= chunk.index - self.end <= RETURN_S * chunk.rate_hz

    def has(self, chunk: Chunk) -> bool:
        """Whether a chunk is one of them once more."""
        return chunk.session == self.session and self.first_index <= chunk.index and chunk.end <= self.end


class Return:
    """Watches chunks that are of no use, from the first one on that follows one of use."""

    def __init__(self) -> None:
        self._row: _Row | None = None

    def is_live(self, chunk: Chunk, now_s: float, expected_ns: int | None, newest_ns: int | None) -> bool:
        """Tell whether with this chunk they have become a live stream.

        `expected_ns` is when its first sample was by what is known of its session, None for another one; `newest_ns` is
        the newest time known.
        """
        row = self._row
        if row is not None and row.has(chunk):
            return False
        if row is None or not row.goes_on(chunk, now_s):
            self._row = _Row(chunk.session, chunk.index, now_s, chunk.end, now_s)
            return False
        self._row = row = row._replace(end=chunk.end, last_s=now_s)
        waited_s, moved_s = now_s - row.since_s, (chunk.index - row.first_index) / chunk.rate_hz
        if waited_s < RETURN_S or not waited_s / PACE <= moved_s <= waited_s * PACE:
            return False
        if chunk.time_ns is None or newest_ns is None:
            return True
        if expected_ns is not None:
            return abs(chunk.time_ns - expected_ns) > LATER_NS
        return chunk.time_ns >= newest_ns - LATER_NS or waited_s >= RETURN_ANYWAY_S
