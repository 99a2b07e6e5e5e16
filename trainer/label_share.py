"""Training with the labels of few patients, as pre-training is judged by: whose records they are is drawn by a seed."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray


def of_share(patient_ids: NDArray[np.int64], share: float, seed: int) -> NDArray[np.bool_]:
    """Return which records (records,) belong to this share of the patients, one patient at least.

    A seed puts the patients in one order, of which a share is the beginning: a smaller one is part of a larger one.
    """
    patients = np.unique(patient_ids)
    order = np.random.default_rng(seed).permutation(len(patients))
    return np.isin(patient_ids, patients[order[: max(1, math.ceil(share * len(patients)))]])
