"""Whether a stream's carried state is one that a well model has: its size against the ranges in the bundle.

The root mean square of each watched tensor is held against its range. What a reset cannot cure is not looked for: a
small state is what every stream starts from. Works on what `Runtime.save_slot` returns, so it is the same for every
runtime.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from edge.runtime.base import Float32Array, State
from edge.runtime.manifest import StateMonitor


@dataclass(frozen=True)
class StateCheck:
    """How large the watched tensors of one stream are at one moment."""

    ratios: Mapping[str, float]
    """Tensor → its root mean square as a multiple of its 99th percentile on the training folds."""
    out_of_range: tuple[str, ...]
    """Tensors above their limit, or with a value that is no number."""

    @property
    def finite(self) -> bool:
        """Whether every watched value is a number: one that is not never heals, since state feeds on itself."""
        return all(map(math.isfinite, self.ratios.values()))


def check_state(monitor: StateMonitor, state: State) -> StateCheck:
    """Hold a stream's state, name → (*shape), against the ranges of its model."""
    ratios, out_of_range = {}, []
    for name, expected in monitor.tensors.items():
        size = root_mean_square(state[name])
        ratios[name] = size / expected.p99
        if not size <= expected.limit:  # so that NaN is out of range
            out_of_range.append(name)
    return StateCheck(ratios, tuple(out_of_range))


def root_mean_square(tensor: Float32Array) -> float:
    """Return the root mean square of all elements, in double precision: a finite tensor has a finite one."""
    flat = tensor.ravel().astype(np.float64)
    return math.sqrt(float(flat @ flat) / flat.size)
