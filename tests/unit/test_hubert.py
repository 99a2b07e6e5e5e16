"""HuBERT-ECG: leads one after another, masked cluster prediction, and public weights."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import save_file

from trainer.networks.hubert import (
    Hubert,
    HubertConfig,
    MaskedClusterPrediction,
    PublicWeightsError,
    hidden_frames,
)

TINY = HubertConfig(d_model=32, n_layers=2, n_heads=2, d_conv=8, layer_drop=0.0)


def ecg(batch=2, seed=0):
    return torch.randn(batch, 500, 12, generator=torch.Generator().manual_seed(seed))


@pytest.fixture
def network():
    torch.manual_seed(0)
    return Hubert(TINY)


def test_five_seconds_are_93_frames_of_64_samples(network):
    assert network.frames(500) == 93
    assert network.eval().features(ecg()).shape == (2, 93, 32)


def test_leads_follow_one_another_each_scaled_to_its_own_range(network):
    x = ecg()
    flat = network.flattened(x)
    assert flat.shape == (2, 6000)
    second = flat[0, 500:1000]
    assert second.min() == pytest.approx(-1)
    assert second.max() == pytest.approx(1)
    assert second.argmax() == x[0, :, 1].argmax()


def test_a_silent_lead_stays_finite(network):
    x = ecg()
    x[:, :, 4] = 0.0
    assert network.flattened(x).isfinite().all()


def test_the_same_number_of_frames_is_hidden_in_every_crop():
    mask = hidden_frames(8, 93, 0.33, torch.Generator().manual_seed(0))
    assert mask.shape == (8, 93)
    assert mask.sum(1).tolist() == [31] * 8
    assert not torch.equal(mask[0], mask[1])


def test_of_frames_that_are_all_hidden_nothing_is_seen(network):
    network.eval()
    instead = torch.rand(32)
    nothing, everything = torch.zeros(1, 93, dtype=torch.bool), torch.ones(1, 93, dtype=torch.bool)
    with torch.inference_mode():
        seen = [network.features(ecg(1, seed), nothing, instead) for seed in (0, 1)]
        hidden = [network.features(ecg(1, seed), everything, instead) for seed in (0, 1)]
        assert torch.equal(seen[0], network.features(ecg(1, 0)))
    assert not torch.allclose(*seen, atol=1e-3)
    assert torch.equal(*hidden)


def test_the_loss_is_cross_entropy_of_the_cosine_to_each_code_over_hidden_frames(network):
    task = MaskedClusterPrediction(network.eval(), n_clusters=3, d_codes=2, temperature=0.1)
    with torch.no_grad():
        task.project.weight.zero_()
        task.project.bias.copy_(torch.tensor([2.0, 0.0]))  # every feature becomes this, whatever it was
        task.codes.weight.copy_(torch.tensor([[5.0, 0.0], [0.0, 1.0], [-1.0, 0.0]]))
    clusters = torch.zeros(1, 93, dtype=torch.long)
    clusters[0, 3] = 1
    mask = torch.zeros(1, 93, dtype=torch.bool)
    mask[0, 2:4] = True
    # Cosines 1, 0, -1 over 0.1: logits 10, 0, -10; one hidden frame belongs to the first code, one to the second.
    normaliser = torch.logsumexp(torch.tensor([10.0, 0.0, -10.0]), 0)
    expected = ((normaliser - 10) + normaliser) / 2
    assert F.cross_entropy(task(ecg(1), mask), clusters[mask]).item() == pytest.approx(expected.item(), abs=1e-5)


def test_pre_training_learns_which_cluster_a_hidden_frame_belongs_to(network):
    torch.manual_seed(2)
    task = MaskedClusterPrediction(network.eval(), n_clusters=2, d_codes=8)
    x = ecg(4)
    clusters = (torch.arange(93) >= 46).long().repeat(4, 1)  # early or late: what a transformer can tell from a place
    mask = hidden_frames(4, 93, 0.33, torch.Generator().manual_seed(0))
    optimiser = torch.optim.Adam(task.parameters(), 1e-2)
    losses = []
    for _ in range(12):
        loss = F.cross_entropy(task(x, mask), clusters[mask])
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        losses.append(loss.item())
    assert losses[-1] < 0.5 * losses[0]


def test_public_weights_replace_the_encoder_and_leave_the_head(network, tmp_path):
    torch.manual_seed(3)
    other = Hubert(TINY)
    weights = {f"hubert_ecg.{name}": tensor.contiguous() for name, tensor in other.hubert.state_dict().items()}
    new, old = "conv.parametrizations.weight.original", "conv.weight_"
    weights = {name.replace(f"{new}0", f"{old}g").replace(f"{new}1", f"{old}v"): t for name, t in weights.items()}
    weights["final_proj.0.weight"] = torch.zeros(3, 3)
    save_file(weights, tmp_path / "model.safetensors")
    head = network.head.weight.clone()
    network.load_public(tmp_path / "model.safetensors")
    with torch.inference_mode():
        assert torch.equal(network.eval().features(ecg()), other.eval().features(ecg()))
    assert torch.equal(network.head.weight, head)


def test_weights_of_another_shape_are_refused_by_name(network, tmp_path):
    wider = Hubert(HubertConfig(d_model=48, n_layers=2, n_heads=2, d_conv=8))
    save_file({k: v.contiguous() for k, v in wider.hubert.state_dict().items()}, tmp_path / "model.safetensors")
    with pytest.raises(PublicWeightsError, match=r"model\.safetensors does not fit"):
        network.load_public(tmp_path / "model.safetensors")
