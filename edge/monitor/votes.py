"""The score of a window as the mean of votes: what a model says of each run of hops that it pools, averaged.

Only for bundles whose graph pools fewer hops than a window has (`Manifest.vote_hops`). A stream keeps the logits of its
last votes; those of its first hops, which pooled fewer hops than the rest, are gone by the time a window is full.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

Votes = NDArray[np.float32]
"""Logits (votes, classes), the newest last."""

TOGETHER = 8
"""Streams whose votes are averaged at once. For more than 500 numbers NumPy lets the interpreter go, and getting it
back may take longer than all of this."""


def with_vote(votes: Votes | None, newest: NDArray[np.float32], kept: int) -> Votes:
    """Return votes with a newer one (classes,) behind them: the last `kept` of all."""
    earlier: list[Votes] = [] if votes is None else [votes[-(kept - 1) :]]
    return np.concatenate([*earlier, newest[np.newaxis]])


def mean_logits(votes: Sequence[Votes]) -> NDArray[np.float32]:
    """Return for each stream's finite votes the logit of the mean of their probabilities: (streams, classes).

    Yes against no, each summed as logarithms: no probability is so near to 0 or 1 that its logit is lost.
    """
    return np.concatenate([_mean_logits(votes[at : at + TOGETHER]) for at in range(0, len(votes), TOGETHER)])


def _mean_logits(votes: Sequence[Votes]) -> NDArray[np.float32]:
    starts = np.cumsum([0, *map(len, votes[:-1])])
    logits = np.concatenate(votes).astype(np.float64)
    yes = np.logaddexp.reduceat(-np.logaddexp(0.0, -logits), starts)
    no = np.logaddexp.reduceat(-np.logaddexp(0.0, logits), starts)
    return (yes - no).astype(np.float32)
