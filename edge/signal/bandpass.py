"""Causal band-pass filtering as second-order sections with carried state; the coefficients stand in the bundle."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from edge.signal.sections import filter_sections, steady_state

FloatArray = NDArray[np.float64]


class CausalBandpass:
    """Filters samples as they come; the state is carried, so any chunking gives bit-identical output.

    At a start the filter stands in the steady state of its first sample, so a DC offset does not ring.
    Samples are (..., samples, leads); leading axes must stay the same from call to call.
    """

    def __init__(self, sos: FloatArray) -> None:
        self._sos = np.ascontiguousarray(sos, dtype=np.float64)
        self._steady = steady_state(self._sos)  # (sections, 2)
        self.state: FloatArray | None = None  # (sections, ..., 2, leads)

    def reset(self) -> None:
        """Forget the past; the next sample is taken as a steady state."""
        self.state = None

    def process(self, samples: FloatArray) -> FloatArray:
        """Filter the next samples of shape (..., samples, leads)."""
        if samples.shape[-2] == 0:
            return samples
        if self.state is None:
            self.state = self._steady_state(samples[..., :1, :])
        filtered = np.array(samples, dtype=np.float64, order="C")
        filter_sections(self._sos, filtered, self.state)
        return filtered

    def _steady_state(self, first: FloatArray) -> FloatArray:
        sections = self._steady.shape[0]
        steady = self._steady.reshape(sections, *([1] * (first.ndim - 2)), 2, 1)
        return np.ascontiguousarray(steady * first[None])
