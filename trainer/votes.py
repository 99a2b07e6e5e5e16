"""What a Mamba says of a window at once, as a stream ends up saying it: one vote over all of it, or several' mean.

With `vote_hops` every run of so many hops in a window is pooled and classified by itself, and the window's score is the
mean of the probabilities, as a logit. Models are trained on crops much shorter than a window; a vote is as long as what
they know. What a device does hop by hop is `edge.monitor.votes`. Training itself knows no votes.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from trainer.model import EcgMamba, State


def logits_after(model: EcgMamba, x: Tensor, state: State) -> Tensor:
    """Samples (B, T, leads) that follow on a state → logits (B, C) of the window that ends with the last whole hop."""
    config = model.config
    whole_hops = x.shape[1] // config.hop_samples * config.hop_samples
    features, _ = model.encode(x[:, :whole_hops], state)
    return window_logits(model, features[:, -(config.window_samples // config.stride) :])


def window_logits(model: EcgMamba, features: Tensor) -> Tensor:
    """Features of a window's hops (B, L, M) → logits (B, C); fewer hops than a window has are a stream's first.

    A vote ends with each of the last hops, as many as a window has votes, over `vote_hops` hops or what there are.
    """
    config = model.config
    if not config.vote_hops:
        return model.classify(model.pool_window(features))
    hops = features.shape[1] // config.hop_frames
    ends = range(max(1, hops - (config.window_hops - config.vote_hops)), hops + 1)
    spans = [(max(0, end - config.vote_hops) * config.hop_frames, end * config.hop_frames) for end in ends]
    return mean_logits(
        torch.stack([model.classify(model.pool_window(features[:, begin:end])) for begin, end in spans], 1)
    )


def mean_logits(votes: Tensor) -> Tensor:
    """Logits of votes (B, votes, C) → the logit of the mean of their probabilities (B, C).

    Yes against no, each summed as logarithms: no probability is so near to 0 or 1 that its logit is lost.
    """
    votes = votes.float()
    return F.logsigmoid(votes).logsumexp(1) - F.logsigmoid(-votes).logsumexp(1)
