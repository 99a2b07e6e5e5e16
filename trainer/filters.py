"""Designing the causal band-pass, and what a band costs: a steep causal high-pass bends the ST segment.

The ST segment is what MI and STTC are read from, so the default is 0.05-40 Hz with a first-order high-pass.
`st_shift_uv` measures the cost of any band on a synthetic beat; a model that learnt behind a band has learnt that too.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy import signal

from edge.errors import SignalError
from edge.signal.bandpass import CausalBandpass

FloatArray = NDArray[np.float64]

DEFAULT_BAND_HZ = (0.05, 40.0)
DEFAULT_HIGH_PASS_ORDER = 1
DEFAULT_LOW_PASS_ORDER = 2


def design_bandpass(
    rate_hz: float,
    band_hz: tuple[float, float] = DEFAULT_BAND_HZ,
    high_pass_order: int = DEFAULT_HIGH_PASS_ORDER,
    low_pass_order: int = DEFAULT_LOW_PASS_ORDER,
) -> FloatArray:
    """Design Butterworth high-pass and low-pass sections in cascade.

    Returns coefficients of shape (sections, 6), as scipy's `sosfilt` takes them.
    Raises SignalError for a band that does not fit below half the rate.
    """
    low_hz, high_hz = band_hz
    if not 0 < low_hz < high_hz < rate_hz / 2:
        raise SignalError(f"band {low_hz}-{high_hz} Hz does not fit a rate of {rate_hz} Hz")
    high_pass = signal.butter(high_pass_order, low_hz, "highpass", fs=rate_hz, output="sos")
    low_pass = signal.butter(low_pass_order, high_hz, "lowpass", fs=rate_hz, output="sos")
    return np.vstack([high_pass, low_pass]).astype(np.float64)


def synthetic_beats(rate_hz: float, seconds: float = 30.0, period_s: float = 0.8) -> FloatArray:
    """A train of schematic beats in mV with a perfectly flat ST segment, (samples,): P, Q, R, S and T as Gaussians."""
    waves = ((-0.20, 0.025, 0.12), (-0.028, 0.008, -0.1), (0.0, 0.010, 1.0), (0.028, 0.008, -0.2), (0.28, 0.040, 0.3))
    time_s = np.arange(round(seconds * rate_hz)) / rate_hz
    phase_s = (time_s - 0.4) % period_s
    phase_s = np.where(phase_s > period_s - 0.3, phase_s - period_s, phase_s)
    return np.asarray(sum(a * np.exp(-0.5 * ((phase_s - at) / width) ** 2) for at, width, a in waves))


def st_shift_uv(sos: FloatArray, rate_hz: float) -> float:
    """How far the filter moves the ST level (J + 60 ms against the PQ level) of a synthetic beat, in microvolts.

    Zero is what a diagnostic recorder must come near (IEC 60601-2-25 allows ±25 µV); J is taken 50 ms after R.
    """
    beats = synthetic_beats(rate_hz)
    delay = _low_pass_delay_samples(sos, rate_hz)
    filtered = CausalBandpass(sos).process(beats[:, None])[:, 0]
    r_index = round((0.4 + 0.8 * 30) * rate_hz)
    st, pq = round(0.110 * rate_hz), round(-0.080 * rate_hz)
    clean = beats[r_index + st] - beats[r_index + pq]
    seen = filtered[r_index + delay + st] - filtered[r_index + delay + pq]
    return float((seen - clean) * 1000)


def st_shift_text(sos: FloatArray, rate_hz: float) -> str:
    """Say what a band costs in the ST segment, in a few words."""
    shift_uv = st_shift_uv(sos, rate_hz)
    return f"{shift_uv:+.0f} µV (J + 60 ms of a schematic beat; IEC 60601-2-25 allows a recorder ±25 µV)"


def _low_pass_delay_samples(sos: FloatArray, rate_hz: float) -> int:
    """Delay of the pass band in whole samples, read at 10 Hz."""
    frequencies_hz = np.array([9.5, 10.5])
    _, response = signal.sosfreqz(sos, worN=frequencies_hz, fs=rate_hz)
    phase = np.unwrap(np.angle(response))
    return round(float(-(phase[1] - phase[0]) / (2 * np.pi) * rate_hz))
