"""Whether a stream's carried state is one that a well model has: its size against the ranges in the bundle.

The root mean square of each watched tensor is held against its range. What a reset cannot cure is not looked for: a
small state is what every stream starts from.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

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


def check_state(monitor: StateMonitor, sizes: Mapping[str, float]) -> StateCheck:
    """Hold the sizes of a stream's tensors (`Runtime.state_sizes`) against the ranges of its model."""
    ratios, out_of_range = {}, []
    for name, expected in monitor.tensors.items():
        size = sizes[name]
        ratios[name] = size / expected.p99
        if not size <= expected.limit:  # so that NaN is out of range
            out_of_range.append(name)
    return StateCheck(ratios, tuple(out_of_range))
