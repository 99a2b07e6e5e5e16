"""What every windowed network's configuration begins with."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class NetworkConfig:
    """Leads in, classes out, and how the leads are laid out before the network."""

    n_leads: int = 12
    n_classes: int = 5
    layout: Literal["leads", "print_3x4"] = "leads"
    """print_3x4: the three rows of a printed ECG instead of twelve leads, see `trainer.networks.printed`."""
