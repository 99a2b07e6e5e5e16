"""What a poor network and a restless patient do to a stream, on request: seeded, so that a run can be repeated."""

from __future__ import annotations

import heapq
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from edge.errors import RecordError, SignalError
from edge.replay.device import Departure
from edge.replay.records import Recording
from edge.signal.leads import canonical_lead

FloatArray = NDArray[np.float64]

LIMB_SHARES = {"III": (-1.0, 1.0), "aVR": (-0.5, -0.5), "aVL": (1.0, -0.5), "aVF": (-0.5, 1.0)}
"""The other limb leads as shares of I and II (Einthoven 1912, Goldberger 1942)."""


@dataclass(frozen=True)
class Network:
    """How a network treats chunks; shares are chances per chunk."""

    loss: float = 0.0
    duplicate: float = 0.0
    reorder: float = 0.0
    """A chunk so chosen arrives after the next one."""
    jitter_s: float = 0.0
    """Each chunk is up to this much late."""
    seed: int = 0

    def apply(self, departures: Iterable[Departure]) -> Iterator[Departure]:
        """Return the departures as they would arrive, in order of arrival; lazily, for endless streams."""
        rng = np.random.default_rng(self.seed)
        waiting: list[tuple[float, int, Departure]] = []
        for number, departure in enumerate(departures):
            yield from _due(waiting, departure.due_s)
            for late_s in self._delays(departure, rng):
                arrival = replace(departure, late_s=late_s)
                heapq.heappush(waiting, (arrival.due_s, 2 * number + (late_s > 0), arrival))
        yield from _due(waiting, float("inf"))

    def _delays(self, departure: Departure, rng: np.random.Generator) -> list[float]:
        """Return how late each copy of a chunk comes: none if it is lost, two if it is duplicated."""
        lost, doubled, swapped, late = rng.random(4)
        if lost < self.loss:
            return []
        length_s = len(departure.chunk.samples) / departure.chunk.rate_hz
        late_s = late * self.jitter_s + (1.5 * length_s if swapped < self.reorder else 0.0)
        return [late_s, late_s + length_s] if doubled < self.duplicate else [late_s]


def _due(waiting: list[tuple[float, int, Departure]], until_s: float) -> Iterator[Departure]:
    while waiting and waiting[0][0] <= until_s:
        yield heapq.heappop(waiting)[2]


def with_noise(recording: Recording, noise: Recording, snr_db: float, seed: int = 0) -> Recording:
    """Return a recording with another's signal added as noise, at a ratio of powers in decibels.

    Power is the variance over the whole recording, taken lead by lead; the noise's leads are used in turn, from a
    random place on, repeated as needed. It must have the same rate. Where I and II are there, the noise of the other
    limb leads follows from theirs, as at real electrodes: Einthoven's law survives, and their ratio is what results.
    """
    rng = np.random.default_rng(seed)
    added = np.zeros_like(recording.samples_mv)
    for lead, signal in enumerate(recording.samples_mv.T):
        source = noise.samples_mv[:, lead % noise.samples_mv.shape[1]]
        start = int(rng.integers(len(source)))
        part = np.nan_to_num(source.take(np.arange(start, start + len(signal)), mode="wrap"))
        valid = signal[np.isfinite(signal)]
        if part.var() > 0 and len(valid):
            added[:, lead] = (part - part.mean()) * np.sqrt(valid.var() / part.var() / 10 ** (snr_db / 10))
    _follow_limb_leads(added, recording.leads)
    source_text = f"{recording.source} + {noise.name} at {snr_db:g} dB"
    return replace(recording, samples_mv=recording.samples_mv + added, source=source_text)


def _follow_limb_leads(added: FloatArray, leads: tuple[str, ...]) -> None:
    """Make the other limb leads of (samples, leads) what I and II make them."""
    if {"I", "II"} <= set(leads):
        one, two = added[:, leads.index("I")], added[:, leads.index("II")]
        for lead, (of_one, of_two) in LIMB_SHARES.items():
            if lead in leads:
                added[:, leads.index(lead)] = of_one * one + of_two * two


def with_mains(recording: Recording, mains_hz: float, amplitude_mv: float, seed: int = 0) -> Recording:
    """Return a recording with mains hum: on each lead a sine of a phase of its own, of half to all of this amplitude.

    The hum of the other limb leads follows from that of I and II, as at real electrodes. The recording's rate must be
    more than twice the mains frequency: below that no device could tell hum from ECG, and SignalError is raised.
    """
    if recording.rate_hz <= 2 * mains_hz:
        raise SignalError(f"{recording.rate_hz} samples per second cannot hold {mains_hz:g} Hz; resample first")
    rng = np.random.default_rng(seed)
    samples, leads = recording.samples_mv.shape
    turns = np.arange(samples)[:, None] * mains_hz / recording.rate_hz + rng.random(leads)
    added = amplitude_mv * rng.uniform(0.5, 1.0, leads) * np.sin(2 * np.pi * turns)
    _follow_limb_leads(added, recording.leads)
    source = f"{recording.source} + {mains_hz:g} Hz at {amplitude_mv:g} mV"
    return replace(recording, samples_mv=recording.samples_mv + added, source=source)


def with_outage(departures: Iterable[Departure], start_s: float, seconds: float) -> Iterator[Departure]:
    """Return the departures without those whose samples were taken, all or in part, while the network was down."""
    for departure in departures:
        first_s = departure.taken_s - len(departure.chunk.samples) / departure.chunk.rate_hz
        if departure.taken_s <= start_s or first_s >= start_s + seconds:
            yield departure


def with_lead_off(recording: Recording, leads: Sequence[str]) -> Recording:
    """Return a recording with leads off, all their samples invalid; raises RecordError for a lead it does not have."""
    samples = recording.samples_mv.copy()
    for name in map(canonical_lead, leads):
        if name not in recording.leads:
            raise RecordError(f"{recording.name} has no lead {name} to take off; it has {', '.join(recording.leads)}")
        samples[:, recording.leads.index(name)] = np.nan
    return replace(recording, samples_mv=samples, source=f"{recording.source}, {', '.join(leads)} off")


def with_gain(recording: Recording, factor: float) -> Recording:
    """Return a recording so many times as large, as a wrongly calibrated device would send it."""
    return replace(
        recording, samples_mv=recording.samples_mv * factor, source=f"{recording.source}, {factor:g} times as large"
    )


def resampled(recording: Recording, rate_hz: int) -> Recording:
    """Return a recording at another rate (polyphase, zero phase: for noise to be added, not for the signal path)."""
    if recording.rate_hz == rate_hz:
        return recording
    from scipy.signal import resample_poly

    divisor = int(np.gcd(rate_hz, recording.rate_hz))
    samples = resample_poly(recording.samples_mv, rate_hz // divisor, recording.rate_hz // divisor, axis=0)
    return replace(recording, rate_hz=rate_hz, samples_mv=np.asarray(samples))
