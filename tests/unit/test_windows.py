"""Other windows, hops and votes: each differs from the model's own in one thing, and its own is what the model says."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from trainer.kinds import record_logits
from trainer.model import EcgMamba, ModelConfig
from trainer.stream_evaluation.windows import Cut, cuts_of, logits_by_cut, own_cut

RATE_HZ = 100
SMALL = {"n_leads": 3, "n_classes": 2, "d_model": 8, "n_layers": 1, "d_state": 4, "pooling": "mean+peaks"}


def model_with(**settings):
    torch.manual_seed(0)
    return EcgMamba(ModelConfig(**SMALL, **settings)).eval()


@pytest.mark.parametrize("vote_hops", [0, 2, 10])
def test_the_model_s_own_cut_is_what_the_model_says(vote_hops):
    model = model_with(vote_hops=vote_hops)
    signals = np.random.default_rng(0).standard_normal((3, 1000, 3), dtype=np.float32)
    (own,) = logits_by_cut(model, signals, [own_cut(model.config, RATE_HZ)], RATE_HZ)
    np.testing.assert_allclose(own, record_logits(model, signals, 1000), atol=1e-6)


def test_another_cut_is_what_a_model_so_configured_says():
    model, other = model_with(vote_hops=2), model_with(vote_hops=3, hop_samples=200, window_samples=800)
    signals = np.random.default_rng(1).standard_normal((2, 1000, 3), dtype=np.float32)
    (cut,) = logits_by_cut(model, signals, [Cut(8.0, 2.0, 6.0)], RATE_HZ)
    np.testing.assert_allclose(cut, record_logits(other, signals, 800), atol=1e-6)
    assert model.config.vote_hops == 2


@given(
    hop_samples=st.sampled_from([20, 40, 100, 200]),
    hops=st.integers(2, 12),
    vote_hops=st.integers(0, 12).filter(lambda hops: hops != 1),
)
def test_every_cut_can_be_served_and_differs_in_one_thing(hop_samples, hops, vote_hops):
    config = ModelConfig(**SMALL, hop_samples=hop_samples, window_samples=hops * hop_samples,
                         vote_hops=min(vote_hops, hops))  # fmt: skip
    own, *others = cuts_of(config, RATE_HZ)
    assert own == own_cut(config, RATE_HZ)
    signals = np.zeros((1, 1000, 3), dtype=np.float32)
    assert all(logits.shape == (1, 2) for logits in logits_by_cut(model_with(), signals, [own, *others], RATE_HZ))
    for other in others:
        changed = [name for name in ("window_s", "hop_s", "vote_s") if getattr(own, name) != getattr(other, name)]
        assert len(changed) == 1 or changed == ["window_s", "vote_s"]  # a vote is never longer than its window
    assert len({own, *others}) == 1 + len(others)


def test_a_score_is_the_mean_of_as_many_votes_as_fit():
    assert Cut(10.0, 1.0, 2.0).votes == 9
    assert Cut(10.0, 0.4, 2.0).votes == 21
    assert Cut(4.0, 1.0, 4.0).votes == 1
