"""The standard leads and how the names a device sends map onto them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from edge.errors import LeadsError, SignalError

STANDARD_LEADS = ("I", "II", "III", "aVR", "aVL", "aVF", "V1", "V2", "V3", "V4", "V5", "V6")
"""The twelve standard leads in the order of SCP-ECG and DICOM."""

Scalar = TypeVar("Scalar", bound=np.generic)

_CANONICAL = {name.casefold(): name for name in STANDARD_LEADS}


def canonical_lead(name: str) -> str:
    """Return the standard spelling of a lead name; an unknown name comes back stripped, otherwise as it is."""
    stripped = name.strip()
    return _CANONICAL.get(stripped.casefold(), stripped)


@lru_cache(maxsize=256)
def is_wanted(given: tuple[str, ...], wanted: tuple[str, ...]) -> NDArray[np.bool_]:
    """Tell for each of the given lead names, in any letter case, whether it is a wanted one: (given leads,)."""
    return np.array([canonical_lead(name) in wanted for name in given], dtype=bool)


@dataclass(frozen=True)
class LeadMap:
    """Where each wanted lead stands among the given ones."""

    wanted: tuple[str, ...]
    indices: tuple[int, ...]
    in_order: bool
    """Whether the given leads are just the wanted ones."""

    @classmethod
    def between(cls, given: Sequence[str], wanted: Sequence[str] = STANDARD_LEADS) -> LeadMap:
        """Map given lead names, in any order and letter case, onto the wanted ones.

        Raises LeadsError when a wanted lead is missing and SignalError when one is given twice.
        """
        names = [canonical_lead(name) for name in given]
        if len(set(names)) != len(names):
            raise SignalError(f"a lead is given twice: {', '.join(given)}")
        position = {name: i for i, name in enumerate(names)}
        missing = tuple(name for name in wanted if name not in position)
        if missing:
            raise LeadsError(missing, tuple(given))
        indices = tuple(position[name] for name in wanted)
        return cls(tuple(wanted), indices, indices == tuple(range(len(given))))

    def select(self, samples: NDArray[Scalar]) -> NDArray[Scalar]:
        """Return the wanted leads in order: (..., given leads) → (..., wanted leads)."""
        return samples if self.in_order else np.take(samples, self.indices, axis=-1)
