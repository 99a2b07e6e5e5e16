"""Augmentations of what an amplifier adds and takes: its band, a restless patient, noise of each channel.

Signals are (records, samples, leads) in millivolts; what comes back is a new array of the same shape. The same
generator state gives the same result.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from edge.errors import SignalError
from edge.signal.leads import STANDARD_LEADS

Float32Array = NDArray[np.float32]

LOW_HZ, HIGH_HZ = (0.05, 0.67), (30.0, 45.0)
"""Where recorders of the clinic cut: 0.05 Hz for diagnosis, 0.67 Hz for monitoring (AHA/ACCF/HRS 2007); 40 Hz above."""
WANDER_HZ = (0.05, 0.5)
"""Breathing and slow movement."""
WANDER_WAVES = 3
MOTION_DECAY_S = (0.1, 0.6)
ELECTRODES = 9
"""RA, LA, LL and V1 to V6, in this order."""


def band_pass(ecg: Float32Array, rate_hz: int, rng: np.random.Generator, high_hz: float = HIGH_HZ[1]) -> Float32Array:
    """Filter each record to a physiological band of its own, drawn from LOW_HZ and 30 to `high_hz`, without delay.

    The gain is that of second-order Butterworth sections; the record is mirrored at its ends. Raises SignalError where
    the band does not fit below half the rate.
    """
    if not HIGH_HZ[0] < high_hz < rate_hz / 2:
        raise SignalError(f"a band up to {high_hz} Hz does not fit between {HIGH_HZ[0]} Hz and half of {rate_hz} Hz")
    records, samples, _ = ecg.shape
    low = np.exp(rng.uniform(math.log(LOW_HZ[0]), math.log(LOW_HZ[1]), (records, 1)))
    high = rng.uniform(HIGH_HZ[0], high_hz, (records, 1))
    frequencies = np.fft.rfftfreq(2 * samples, 1 / rate_hz)
    ratio = frequencies / low
    gain = ratio**2 / np.sqrt(1 + ratio**4) / np.sqrt(1 + (frequencies / high) ** 4)
    spectrum = np.fft.rfft(np.concatenate([ecg, ecg[:, ::-1]], axis=1), axis=1) * gain[:, :, None]
    return np.fft.irfft(spectrum, 2 * samples, axis=1)[:, :samples].astype(np.float32)


def motion_and_wander(
    ecg: Float32Array, rate_hz: int, rng: np.random.Generator, wander_mv: float = 0.2, motion_mv: float = 0.3,
    jerks: int = 2,
) -> Float32Array:  # fmt: skip
    """Let the baseline wander by up to `wander_mv` at each electrode, and jerk some electrodes by up to `motion_mv`.

    A jerk is a step that decays, as skin stretched under an electrode gives it; up to `jerks` per record. Both happen
    at the electrodes, so Einthoven's law holds for what is added. Needs the twelve standard leads in their order.
    """
    records, samples, leads = ecg.shape
    if leads != len(STANDARD_LEADS):
        raise SignalError(f"movement is added to the twelve standard leads, not to {leads}")
    time_s = np.arange(samples) / rate_hz
    added = _wander(rng, records, time_s, wander_mv)
    for record, count in enumerate(rng.integers(0, jerks + 1, size=(records,)).tolist()):
        for _ in range(count):
            electrode, at_s = int(rng.integers(ELECTRODES)), rng.uniform(0.0, float(time_s[-1]))
            since_s = np.maximum(time_s - at_s, 0.0)
            decay = np.exp(-since_s / rng.uniform(*MOTION_DECAY_S)) * (time_s >= at_s)
            added[record, :, electrode] += rng.uniform(-motion_mv, motion_mv) * decay
    return np.asarray(ecg + added @ leads_of_electrodes().T, np.float32)


def channel_noise(ecg: Float32Array, rate_hz: int, rng: np.random.Generator, most_mv: float = 0.03) -> Float32Array:
    """Add white noise, on each channel at a level of its own up to `most_mv` in the band that 100 Hz shows.

    At higher rates the same noise per hertz reaches further, so its deviation grows with the root of the rate.
    """
    records, _, leads = ecg.shape
    levels = rng.uniform(0, most_mv * np.sqrt(rate_hz / 100), (records, 1, leads)).astype(np.float32)
    return np.asarray(ecg + levels * rng.standard_normal(ecg.shape, dtype=np.float32), np.float32)


def leads_of_electrodes() -> NDArray[np.float64]:
    """Return the twelve leads as sums of electrode potentials, (leads, electrodes).

    Einthoven 1912, Goldberger 1942; chest leads against Wilson's central terminal (1934).
    """
    ra, la, ll = np.eye(ELECTRODES)[:3]
    terminal = (ra + la + ll) / 3
    limbs = [la - ra, ll - ra, ll - la, ra - (la + ll) / 2, la - (ra + ll) / 2, ll - (ra + la) / 2]
    return np.stack([*limbs, *(np.eye(ELECTRODES)[3:] - terminal)])


def _wander(
    rng: np.random.Generator, records: int, time_s: NDArray[np.float64], most_mv: float
) -> NDArray[np.float64]:  # fmt: skip
    """Slow sums of sines, (records, samples, electrodes), each within ± most_mv."""
    shape = (records, 1, ELECTRODES, WANDER_WAVES)
    frequency = rng.uniform(*WANDER_HZ, (records, 1, 1, WANDER_WAVES))
    phase, height = rng.uniform(0, 2 * np.pi, shape), rng.uniform(0, most_mv / WANDER_WAVES, shape)
    waves = np.sin(2 * np.pi * frequency * time_s[None, :, None, None] + phase)
    return np.asarray((height * waves).sum(-1))
