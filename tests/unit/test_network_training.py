"""Every windowed network learns a handful of records, alike from one seed, and reads the print of an ECG too."""

from __future__ import annotations

import msgspec
import pytest
import torch
import torch.nn.functional as F

from tests.small_networks import ecg, small_config
from trainer.networks.printed import printed_rows
from trainer.networks.registry import NETWORKS, build_network

STEPS = 10


def trained(kind, seed, steps=STEPS):
    """A small network after some steps on eight records, and the loss of each step."""
    torch.manual_seed(seed)
    network = build_network(kind, small_config(kind)).train()
    samples = 1000 if kind == "cardionet-xl" else 250
    crops, targets = ecg(8, samples), torch.eye(5)[torch.arange(8) % 5]
    optimiser, losses = torch.optim.AdamW(network.parameters(), 3e-3), []
    for _ in range(steps):
        loss = F.binary_cross_entropy_with_logits(network(crops), targets)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        losses.append(loss.item())
    return network, losses


@pytest.mark.parametrize("kind", NETWORKS)
def test_the_loss_falls_on_a_handful_of_records(kind):
    _, losses = trained(kind, seed=0)
    assert sum(losses[-3:]) / 3 < 0.9 * losses[0]


@pytest.mark.parametrize("kind", NETWORKS)
def test_one_seed_trains_one_network(kind):
    first, again, other = (trained(kind, seed, steps=2)[0].state_dict() for seed in (1, 1, 2))
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert any(not torch.equal(first[name], other[name]) for name in first)


def test_a_print_shows_a_quarter_of_each_lead_in_three_rows():
    time, leads = torch.arange(1000.0)[:, None], 10_000.0 * torch.arange(12)
    rows = printed_rows((time + leads)[None])[0]
    assert rows.shape == (1000, 3)
    for row, of_row in enumerate([(0, 3, 6, 9), (1, 4, 7, 10), (2, 5, 8, 11)]):
        expected = torch.cat(
            [torch.arange(at * 250.0, at * 250 + 250) + 10_000 * lead for at, lead in enumerate(of_row)]
        )
        assert torch.equal(rows[:, row], expected)


@pytest.mark.parametrize("kind", NETWORKS)
def test_a_network_that_reads_the_print_is_the_network_of_three_leads_behind_it(kind):
    torch.manual_seed(0)
    printed = build_network(kind, small_config(kind, layout="print_3x4")).eval()
    plain = build_network(kind, small_config(kind, n_leads=3)).eval()
    plain.load_state_dict({name.removeprefix("network."): tensor for name, tensor in printed.state_dict().items()})
    with torch.inference_mode():
        assert torch.equal(printed(ecg()), plain(printed_rows(ecg())))


def test_a_print_of_other_than_twelve_leads_is_refused():
    with pytest.raises(msgspec.ValidationError, match="12 leads"):
        build_network("resnet1d-wang", small_config("resnet1d-wang", n_leads=8, layout="print_3x4"))
