"""Deterministic ECG for tests: a schematic patient with consistent limb leads, and its chunks on the wire."""

from __future__ import annotations

import random
from collections.abc import Iterable, Iterator

import numpy as np
from numpy.typing import NDArray

from edge.signal.leads import STANDARD_LEADS
from edge.stream.wire import Chunk
from trainer.filters import synthetic_beats

SESSION = "s1"
UNITS_PER_MV = 1000.0
CHEST_SHARES = (-0.6, -0.3, 0.2, 0.8, 1.1, 0.9)

Int16Array = NDArray[np.int16]
FloatArray = NDArray[np.float64]


def patient(seconds: float, rate_hz: int = 100, seed: int = 0) -> Int16Array:
    """Return (samples, 12) in microvolts: beats in every lead, wander and noise, a pulse rate that goes by the seed."""
    noise = np.random.default_rng(seed)
    period_s = 0.7 + 0.02 * (seed % 20)
    beats = synthetic_beats(rate_hz, seconds, period_s)[:, None]
    count = len(beats)
    wander = 0.05 * np.sin(2 * np.pi * 0.3 * np.arange(count)[:, None] / rate_hz + noise.uniform(0, 6, (1, 8)))
    shares = np.array([0.6, 1.0, *CHEST_SHARES])[None]
    independent = beats * shares + wander + noise.normal(0, 0.004, (count, 8))  # I, II, V1-V6
    lead_i, lead_ii, chest = independent[:, :1], independent[:, 1:2], independent[:, 2:]
    lead_iii = lead_ii - lead_i
    limb = [lead_i, lead_ii, lead_iii, -(lead_i + lead_ii) / 2, (lead_i - lead_iii) / 2, (lead_ii + lead_iii) / 2]
    return np.round(np.concatenate([*limb, chest], axis=1) * UNITS_PER_MV).astype(np.int16)


def millivolts(samples: Int16Array) -> FloatArray:
    """Return what the daemon makes of such samples."""
    return samples / UNITS_PER_MV


def chunks_of(
    samples: Int16Array,
    rate_hz: int = 100,
    sizes: Iterable[int] | int | None = None,
    session: str = SESSION,
    first_index: int = 0,
    leads: tuple[str, ...] = STANDARD_LEADS,
) -> list[Chunk]:
    """Cut samples, (samples, leads), into chunks of the sizes given (by default a second each), repeated as needed."""
    chunks, begin = [], 0
    for size in _endless(rate_hz if sizes is None else sizes):
        part = samples[begin : begin + size]
        if not len(part):
            return chunks
        time_ns = 1_700_000_000_000_000_000 + (first_index + begin) * 1_000_000_000 // rate_hz
        chunks.append(
            Chunk(session, len(chunks), first_index + begin, time_ns, rate_hz, leads, part, gain=UNITS_PER_MV)
        )
        begin += size
    return chunks


def disturbed(chunks: list[Chunk], seed: int = 0, window: int = 5) -> list[Chunk]:
    """Return the chunks as a bad network would bring them: every third twice, all but the first out of order."""
    shuffle = random.Random(seed)
    first, rest = chunks[0], [*chunks[1:], *chunks[1::3]]
    rest.sort(key=lambda chunk: chunk.number + shuffle.uniform(0, window))
    return [first, *rest]


def _endless(sizes: Iterable[int] | int) -> Iterator[int]:
    repeated = [sizes] if isinstance(sizes, int) else list(sizes)
    while True:
        yield from repeated
