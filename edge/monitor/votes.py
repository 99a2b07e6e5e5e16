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

MAX_LOGIT = 700.0
"""What is more certain counts as this: its probability is 0 or 1 to any precision, and exp(700) is still a number."""


def with_vote(votes: Votes | None, newest: NDArray[np.float32], kept: int) -> Votes:
    """Return votes with a newer one (classes,) behind them: the last `kept` of all."""
    earlier: list[Votes] = [] if votes is None else [votes[-(kept - 1) :]]
    return np.concatenate([*earlier, newest[np.newaxis]])


def mean_logits(votes: Sequence[Votes]) -> NDArray[np.float32]:
    """Return for each stream's finite votes the logit of the mean of their probabilities: (streams, classes).

    Yes against no, each summed by itself: no probability is so near to 1 that its logit is lost.
    """
    starts = np.cumsum([0, *map(len, votes[:-1])])
    logits = np.clip(np.concatenate(votes).astype(np.float64), -MAX_LOGIT, MAX_LOGIT)
    yes = np.add.reduceat(1 / (1 + np.exp(-logits)), starts)
    no = np.add.reduceat(1 / (1 + np.exp(logits)), starts)
    return np.log(yes / no).astype(np.float32)
