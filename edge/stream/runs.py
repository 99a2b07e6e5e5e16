"""Runs of samples with nothing left out: what stands in for invalid and missing ones, and where to start afresh."""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from enum import Enum

import msgspec
import numpy as np
from numpy.typing import NDArray

from edge.signal.invalid import INVALID, InvalidArray
from edge.stream.wire import Chunk, Millivolts, to_millivolts

FloatArray = NDArray[np.float64]
BoolArray = NDArray[np.bool_]

NEVER = 2**40
"""Samples since a lead's last good one, when there has been none."""


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
    samples_mv: FloatArray
    invalid: InvalidArray
    reset: Reset | None = None
    """Set when state must start afresh at the first of these samples."""

    @property
    def end(self) -> int:
        """Index one past the last sample."""
        return self.index + len(self.samples_mv)


@dataclass
class Hold:
    """What each lead was last worth, and for how long it has been worth nothing since."""

    last_mv: FloatArray  # (leads,)
    absent: NDArray[np.int64]  # (leads,) invalid or missing samples since then
    any_absent: bool = True
    """Asked for with every chunk."""

    @classmethod
    def of_nothing(cls, leads: int) -> Hold:
        """Return what is known before the first sample."""
        return cls(np.zeros(leads), np.full(leads, NEVER))

    def start(self, invalid: InvalidArray) -> None:
        """Start afresh at a sample, `invalid` (leads,): a lead that is not there yet has to come back once it is."""
        self.absent = np.where(invalid, NEVER, 0)
        self.any_absent = bool(invalid.any())

    def keep(self, samples_mv: FloatArray) -> None:
        """Take note of samples that are all valid, after such."""
        self.last_mv = samples_mv[-1].copy()

    def fill(self, samples_mv: FloatArray, invalid: InvalidArray, limit: float) -> tuple[FloatArray, BoolArray]:
        """Hold the last good value over invalid samples, both (samples, leads).

        Returns the samples, and which of them (samples, leads) end an absence of more than `limit` samples.
        """
        filled, absent_before = hold_last_good(samples_mv, invalid != 0, self.last_mv, self.absent)
        self.last_mv = filled[-1].copy()
        self.absent = np.where(invalid[-1], absent_before[-1] + 1, 0)
        self.any_absent = bool(self.absent.any())
        return filled, (absent_before > limit) & (invalid == 0)

    def bridge(self, missing: int, first_mv: FloatArray, first_invalid: InvalidArray) -> FloatArray:
        """Draw straight lines over a hole, (missing, leads), to what follows it: `first_mv` (leads,) where it is valid.

        A lead that was away before the hole or is behind it was away in it, too.
        """
        away = (self.absent > 0) | (first_invalid != 0)
        towards_mv = np.where(away, self.last_mv, first_mv)
        steps = np.arange(1, missing + 1)[:, None] / (missing + 1)
        filled: FloatArray = self.last_mv + steps * (towards_mv - self.last_mv)
        self.last_mv = filled[-1].copy()
        self.absent = self.absent + np.where(away, missing, 0)
        self.any_absent = bool(self.absent.any())
        return filled


def received(chunk: Chunk) -> Millivolts:
    """Return a chunk's samples in millivolts; NaN and invalid are also those of a lead that the device says is off."""
    if not chunk.flags.lead_off:
        return to_millivolts(chunk)
    samples_mv, invalid, _ = to_millivolts(chunk)
    off = [lead for lead in range(len(chunk.leads)) if chunk.flags.lead_off >> lead & 1]
    samples_mv[:, off], invalid[:, off] = np.nan, INVALID
    return Millivolts(samples_mv, invalid, True)


def runs_of(
    index: int, samples_mv: FloatArray, invalid: InvalidArray, hold: Hold, limit: float,
    watched: BoolArray | None = None, reset: Reset | None = None,
) -> list[Run]:  # fmt: skip
    """Fill samples that begin at an index, cut where a lead comes back after more than `limit` samples.

    Only leads that are `watched` (leads,) count for that, or all.
    """
    filled, returned = hold.fill(samples_mv, invalid, limit)
    cuts = np.flatnonzero((returned if watched is None else returned & watched).any(axis=1)).tolist()
    edges = [0, *(cut for cut in cuts if cut), len(filled)]
    resets = [Reset.LEAD_RECOVERY if 0 in cuts else reset, *[Reset.LEAD_RECOVERY] * (len(edges) - 2)]
    return [
        Run(index + begin, filled[begin:end], invalid[begin:end], why)
        for (begin, end), why in zip(itertools.pairwise(edges), resets, strict=True)
    ]


def hold_last_good(
    samples_mv: FloatArray, invalid: BoolArray, last_mv: FloatArray, absent: NDArray[np.int64]
) -> tuple[FloatArray, NDArray[np.int64]]:
    """Replace invalid samples by the lead's last good value.

    Returns (filled, absent_before), both (samples, leads); absent_before counts the invalid samples right before each.
    """
    count = len(samples_mv)
    steps = np.arange(count)[:, None]
    last_good = np.maximum.accumulate(np.where(invalid, -1, steps), axis=0)  # (samples, leads), -1: none yet
    filled = np.where(last_good >= 0, np.take_along_axis(samples_mv, np.maximum(last_good, 0), axis=0), last_mv)
    before = np.vstack([np.full((1, samples_mv.shape[1]), -1), last_good[:-1]])
    absent_before = np.where(before >= 0, steps - 1 - before, steps + absent)
    return filled, absent_before
