"""An augmentation of how a heart lies in its chest, and so where the electrodes are: the dipole turned and stretched.

Signals are (records, samples, leads) in millivolts; what comes back is a new array of the same shape. The same
generator state gives the same result.
"""

from __future__ import annotations

import functools

import numpy as np
from numpy.typing import NDArray
from scipy.spatial.transform import Rotation

from edge.errors import SignalError
from edge.replay.patient import DOWER, twelve_leads
from edge.signal.leads import STANDARD_LEADS

Float32Array = NDArray[np.float32]
FloatArray = NDArray[np.float64]


def axis_turn(
    ecg: Float32Array, rate_hz: int, rng: np.random.Generator, degrees: float = 10.0, stretch: float = 0.1
) -> Float32Array:
    """Turn each record's heart by about so many degrees around each axis, and stretch it by about so much along each.

    Both are standard deviations. What of the leads is no projection of a dipole (Dower et al. 1980) stays as it is, so
    the limb leads go on obeying Einthoven's law as far as they did. After Gopal et al. 2021 (3KG). Raises SignalError
    for anything but twelve leads.
    """
    if ecg.shape[2] != len(STANDARD_LEADS):
        raise SignalError(f"a heart is turned in {len(STANDARD_LEADS)} leads, not in {ecg.shape[2]}")
    to_leads, to_heart = dipole_matrices()
    turns = Rotation.from_rotvec(rng.normal(0, degrees, (len(ecg), 3)), degrees=True).as_matrix()  # (records, 3, 3)
    changes = turns * (1 + rng.normal(0, stretch, (len(ecg), 1, 3))) - np.eye(3)
    mixing = to_leads @ changes @ to_heart  # (records, leads, leads)
    return np.asarray(ecg + ecg @ mixing.transpose(0, 2, 1).astype(np.float32), np.float32)


@functools.cache
def dipole_matrices() -> tuple[FloatArray, FloatArray]:
    """Return the matrices from a dipole to the twelve leads, (leads, 3), and from them to the likeliest one."""
    to_leads = twelve_leads(DOWER.T).T
    return to_leads, np.linalg.pinv(to_leads)
