"""What is written of each sample that another value stands in for; 0 is written of one that is as it came."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

InvalidArray = NDArray[np.uint8]

INVALID = 1
"""The device says so, sample by sample or by its lead-off mask."""
MISSING = 2
"""It never came. The kernel that judges a hop's quality knows this number, too."""
