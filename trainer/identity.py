"""What makes a run this one and no other, beside its recipe: the seed, the records, and what they are said to be."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from trainer.data import Split


def run_identity(seed: int, train: Split, tune: Split) -> dict[str, str]:
    """Return what a checkpoint should say of a run, so that another one is not taken for it."""
    return {
        "seed": str(seed),
        "records": records_hash(train),
        "tuning_records": records_hash(tune),
        "targets": _hash(train.aims, train.classes),
        "tuning_labels": _hash(tune.labels, tune.classes),
    }


def records_hash(split: Split) -> str:
    """Return a hash of which records a split holds, in their order; all splits that do not know have the same."""
    return _hash(np.zeros(0, np.int64) if split.ecg_ids is None else split.ecg_ids)


def differences(then: Mapping[str, str], now: Mapping[str, str]) -> Iterator[str]:
    """Say in what one run differs from another; what `then` does not hold, an older one's, is not compared."""
    other = {name for name in now if then.get(name, now[name]) != now[name]}
    if "seed" in other:
        yield f"another seed ({then['seed']}, not {now['seed']})"
    if "records" in other:
        yield "other records to train on (--folds, --limit)"
    elif "targets" in other:
        yield "other targets (labels, --soft-labels)"
    if "tuning_records" in other:
        yield "other records to tune on (--tune-folds, --limit)"
    elif "tuning_labels" in other:
        yield "other labels to tune on"


def _hash(values: NDArray[Any], names: tuple[str, ...] = ()) -> str:
    described = repr((names, values.shape, values.dtype.str))
    return hashlib.sha256(described.encode() + np.ascontiguousarray(values).tobytes()).hexdigest()
