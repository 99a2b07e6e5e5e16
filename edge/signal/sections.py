"""Second-order sections, direct form II transposed: in C where it was built, else in NumPy to the very same bits.

    y = b0 x + z0        z0 ← b1 x - a1 y + z1        z1 ← b2 x - a2 y        (Oppenheim & Schafer, section 6.3)

Every sum is rounded as it stands here (no fused multiply-add), so that it does not matter who computes it, in which
chunks, or on which processor.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from edge.signal import kernel

FloatArray = NDArray[np.float64]

NEXT_TO_NOTHING_MV = 1e-30
"""A state that has died away so far becomes zero: numbers next to nothing take a processor a hundred times as long, and
a lead at exactly 0 mV, of an electrode unplugged, would cost that for good."""


def filter_sections(sos: FloatArray, samples: FloatArray, state: FloatArray) -> None:
    """Filter samples (..., samples, leads) in place, advancing state (sections, ..., 2, leads) in place.

    All three are C-contiguous float64; sos is (sections, 6) with a0 = 1.
    """
    *streams, count, leads = samples.shape
    library = kernel.library_for(leads)
    if library is None:
        filter_sections_numpy(sos, samples, state)
    else:
        library.filter_sections(sos, samples, state, len(sos), math.prod(streams), count, leads)


def filter_sections_numpy(sos: FloatArray, samples: FloatArray, state: FloatArray) -> None:
    """Do what `filter_sections` does, one sample after another: quick only for many streams at once."""
    for (b0, b1, b2, _, a1, a2), carried in zip(sos, state, strict=True):
        z0, z1 = carried[..., 0, :].copy(), carried[..., 1, :].copy()
        for k in range(samples.shape[-2]):
            x = samples[..., k, :].copy()
            y = b0 * x + z0
            z0 = _living(b1 * x - a1 * y + z1)
            z1 = _living(b2 * x - a2 * y)
            samples[..., k, :] = y
        carried[..., 0, :], carried[..., 1, :] = z0, z1


def _living(state: FloatArray) -> FloatArray:
    return np.where(np.abs(state) < NEXT_TO_NOTHING_MV, 0.0, state)


def steady_state(sos: FloatArray) -> FloatArray:
    """Return the state (sections, 2) in which a constant input of one leaves the cascade unmoved."""
    state, level = np.empty((len(sos), 2)), 1.0
    for section, (b0, b1, b2, _, a1, a2) in enumerate(sos):
        reached = (b0 + b1 + b2) / (1.0 + a1 + a2)
        z1 = b2 - a2 * reached
        state[section] = level * (b1 - a1 * reached + z1), level * z1
        level *= reached
    return state
