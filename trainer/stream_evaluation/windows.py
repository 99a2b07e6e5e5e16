"""What the same weights would make of other windows, hops and votes: how a window is served, by measurement.

A model's features do not depend on how its window is cut, so records are encoded once and pooled in every way.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray

from trainer.model import EcgMamba, ModelConfig
from trainer.votes import window_logits

Float32Array = NDArray[np.float32]

HOPS_S = (0.4, 2.0)
VOTES_S = (3.0, 5.0)
WINDOWS_S = (4.0, 6.0, 8.0)
"""Tried, one after another, in place of what a bundle has; the vote is also tried as long as the window."""


@dataclass(frozen=True)
class Cut:
    """One way to serve a window."""

    window_s: float
    hop_s: float
    vote_s: float
    """As long as the window where all of it is pooled at once."""

    @property
    def votes(self) -> int:
        """Of how many votes a score is the mean."""
        return round((self.window_s - self.vote_s) / self.hop_s) + 1


def own_cut(config: ModelConfig, rate_hz: int) -> Cut:
    """Return how a model is served as it is."""
    window_s, hop_s = config.window_samples / rate_hz, config.hop_samples / rate_hz
    return Cut(window_s, hop_s, config.vote_hops * hop_s or window_s)


def cuts_of(config: ModelConfig, rate_hz: int) -> list[Cut]:
    """Return the ways to be compared, the model's own first, then those that differ from it in one thing."""
    own = own_cut(config, rate_hz)
    tried = [
        *(replace(own, vote_s=vote_s) for vote_s in (*VOTES_S, own.window_s)),
        *(replace(own, hop_s=hop_s) for hop_s in HOPS_S),
        *(replace(own, window_s=window_s, vote_s=min(own.vote_s, window_s)) for window_s in WINDOWS_S),
    ]
    return list(dict.fromkeys([own, *(cut for cut in tried if _fits(cut, config, rate_hz))]))


def logits_by_cut(model: EcgMamba, signals: Float32Array, cuts: Sequence[Cut], rate_hz: int) -> list[Float32Array]:
    """Return what is said at the end of records (records, samples, leads) from a cold start: (records, classes) each.

    Signals have been through the front-end.
    """
    served = [_served(model, cut, rate_hz) for cut in cuts]
    with torch.inference_mode():
        features, _ = model.encode(torch.from_numpy(signals), model.initial_state(len(signals)))
        return [
            window_logits(other, features[:, -(other.config.window_samples // other.config.stride) :]).numpy()
            for other in served
        ]


def _served(model: EcgMamba, cut: Cut, rate_hz: int) -> EcgMamba:
    """Return the same weights with another configuration."""
    other = copy.copy(model)
    other.config = _config(model.config, cut, rate_hz)
    return other


def _config(config: ModelConfig, cut: Cut, rate_hz: int) -> ModelConfig:
    return replace(
        config,
        hop_samples=round(cut.hop_s * rate_hz),
        window_samples=round(cut.window_s * rate_hz),
        vote_hops=0 if cut.vote_s == cut.window_s else round(cut.vote_s / cut.hop_s),
    )


def _fits(cut: Cut, config: ModelConfig, rate_hz: int) -> bool:
    """Whether hops are whole strides, votes and windows whole hops, and the vote no longer than the window."""
    hop_samples = round(cut.hop_s * rate_hz)
    whole = all(round(seconds * rate_hz) % hop_samples == 0 for seconds in (cut.vote_s, cut.window_s))
    return (
        hop_samples % config.stride == 0
        and whole
        and cut.vote_s <= cut.window_s
        and (cut.vote_s == cut.window_s or cut.vote_s >= 2 * cut.hop_s)
    )
