"""Causal resampling with a polyphase FIR filter: one stated delay for every input rate."""

from __future__ import annotations

from math import gcd

import numpy as np
from numpy.typing import NDArray

from edge.errors import SignalError
from edge.signal import kernel

FloatArray = NDArray[np.float64]

SUPPORTED_RATES_HZ = (100, 125, 128, 200, 250, 256, 257, 300, 360, 400, 500, 512, 1000)
"""Input rates the signal path takes."""

DELAY_OUTPUT_SAMPLES = 9
"""Group delay of the filter in output samples: 90 ms at 100 Hz, whatever the input rate."""

STOP_BAND_DB = 60.0


def design_polyphase(rate_in_hz: int, rate_out_hz: int) -> tuple[int, int, FloatArray]:
    """Return (up, down, taps by phase (up, reach)) of the low-pass that takes one rate to the other.

    Half amplitude lies at half the output rate and the length gives a transition band of a fifth of the output rate at
    60 dB (Kaiser 1974). Each phase sums to one, so a constant passes unchanged.
    """
    divisor = gcd(rate_in_hz, rate_out_hz)
    up, down = rate_out_hz // divisor, rate_in_hz // divisor
    half_length = DELAY_OUTPUT_SAMPLES * down
    beta = 0.1102 * (STOP_BAND_DB - 8.7)  # Kaiser's formula above 50 dB
    pass_share = min(rate_in_hz, rate_out_hz) / (rate_in_hz * up)
    places = np.arange(-half_length, half_length + 1)
    taps = np.sinc(pass_share * places) * np.kaiser(len(places), beta)
    reach = -(-len(taps) // up)  # input samples one output looks back on
    phases = np.pad(taps, (0, reach * up - len(taps))).reshape(reach, up).T
    return up, down, np.ascontiguousarray(phases / phases.sum(1, keepdims=True))


def resample(phases: FloatArray, down: int, inputs: FloatArray, first: int, count: int) -> FloatArray:
    """Return the outputs (count, leads) from the first-th on of inputs (samples, leads), both C-contiguous float64.

    Output n lies at input n · down / up and looks back `reach` inputs from there, all of which must be given.
    """
    (up, reach), leads = phases.shape, inputs.shape[1]
    library = kernel.library_for(leads)
    if library is None:
        return resample_numpy(phases, down, inputs, first, count)
    outputs = np.empty((count, leads))
    library.resample(phases, inputs, outputs, up, down, reach, leads, first, count, len(inputs))
    return outputs


def resample_numpy(phases: FloatArray, down: int, inputs: FloatArray, first: int, count: int) -> FloatArray:
    """Do what `resample` does, with the same roundings."""
    up, reach = phases.shape
    newest, phase = np.divmod(np.arange(first, first + count) * down, up)
    outputs = np.zeros((count, inputs.shape[1]))
    for back in range(reach):
        outputs += phases[phase, back, None] * inputs[newest - back]
    return outputs


class CausalResampler:
    """Resamples (samples, leads) as they come; any chunking gives bit-identical output.

    Output n stands for the input at time n / rate_out - delay_s and is given as soon as the input reaches
    n / rate_out. At a start the past is taken to equal the first sample.
    """

    def __init__(self, rate_in_hz: int, rate_out_hz: int) -> None:
        if rate_in_hz not in SUPPORTED_RATES_HZ:
            supported = ", ".join(map(str, SUPPORTED_RATES_HZ))
            raise SignalError(f"sampling rate {rate_in_hz} Hz is not supported (supported: {supported})")
        self.rate_in_hz = rate_in_hz
        self.rate_out_hz = rate_out_hz
        self._identity = rate_in_hz == rate_out_hz
        self._up, self._down, self._phases = (
            (1, 1, np.ones((1, 1))) if self._identity else design_polyphase(rate_in_hz, rate_out_hz)
        )
        reach = self._phases.shape[1]
        self._history = -(-reach // self._down) * self._down
        self.reset()

    @property
    def delay_s(self) -> float:
        """Group delay in seconds."""
        return 0.0 if self._identity else DELAY_OUTPUT_SAMPLES / self.rate_out_hz

    def reset(self) -> None:
        """Forget the past; the next sample is taken to have stood for ever."""
        self.buffer: FloatArray | None = None  # (samples, leads), starts at a multiple of `down`
        self.start = -self._history  # input index of buffer[0]
        self.produced = 0  # outputs given so far

    def process(self, samples: FloatArray) -> FloatArray:
        """Take the next input samples (n, leads), return the outputs that are due (m, leads)."""
        if self._identity or len(samples) == 0:
            return samples
        if self.buffer is None:
            self.buffer = np.repeat(samples[:1], self._history, axis=0)
        self.buffer = np.concatenate([self.buffer, samples])
        received = self.start + len(self.buffer)
        due = (received * self._up - 1) // self._down + 1  # outputs whose newest input has come
        skip = self.produced - self.start * self._up // self._down
        outputs = resample(self._phases, self._down, self.buffer, skip, due - self.produced)
        self.produced = due
        self._trim(received)
        return outputs

    def _trim(self, received: int) -> None:
        assert self.buffer is not None
        excess = (received - self._history - self.start) // self._down * self._down
        if excess > 0:
            self.buffer = self.buffer[excess:].copy()
            self.start += excess
