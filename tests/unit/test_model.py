"""The classifier: its block is Mamba's, its stream is its forward pass."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.random_models import CONFIGS, random_model
from trainer.model import EcgMamba, MambaBlock, ModelConfig, state_layout
from trainer.preset import load_preset

SMALL = ModelConfig(d_model=16, n_layers=2, d_state=8, dropout=0.0)

# mamba_ssm.Mamba(d_model=64): names and shapes of its parameters.
MAMBA_SSM_64 = {
    "A_log": (128, 16), "D": (128,), "in_proj.weight": (256, 64), "conv1d.weight": (128, 1, 4), "conv1d.bias": (128,),
    "x_proj.weight": (36, 128), "dt_proj.weight": (128, 4), "dt_proj.bias": (128,), "out_proj.weight": (64, 128),
}  # fmt: skip


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    return EcgMamba(SMALL).eval()


def test_a_block_has_the_parameter_names_and_shapes_of_mamba_ssm():
    block = MambaBlock(ModelConfig(d_model=64))
    assert {name: tuple(p.shape) for name, p in block.named_parameters()} == MAMBA_SSM_64


def test_a_block_equals_the_independent_implementation_of_transformers():
    from transformers import MambaConfig
    from transformers.models.mamba.modeling_mamba import MambaMixer

    torch.manual_seed(1)
    ours = MambaBlock(ModelConfig(d_model=64))
    config = MambaConfig(
        hidden_size=64, state_size=16, conv_kernel=4, expand=2, time_step_rank=4, use_bias=False, use_conv_bias=True
    )
    theirs = MambaMixer(config, layer_idx=0).eval()
    theirs.load_state_dict(ours.state_dict())
    x = torch.randn(2, 90, 64)
    with torch.inference_mode():
        y, _, _ = ours(x, torch.zeros(2, 128, 3), torch.zeros(2, 128, 16))
        expected = theirs(x)
    assert torch.allclose(y, expected, atol=1e-5)


def test_the_seed_preset_has_66565_parameters():
    model = EcgMamba(load_preset("ecg-mamba-seed").model)
    assert sum(p.numel() for p in model.parameters()) == 66_565


def test_the_streaming_preset_has_178789_parameters():
    model = EcgMamba(load_preset("streaming").model)
    assert sum(p.numel() for p in model.parameters()) == 178_789


@settings(max_examples=15)
@given(hops=st.integers(1, 14), batch=st.integers(1, 3), seed=st.integers(0, 5))
def test_a_stream_of_hops_equals_one_pass_over_its_last_window(model, hops, batch, seed):
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(batch, hops * 100, 12, generator=generator)
    with torch.inference_mode():
        state = model.initial_state(batch)
        for part in x.split(100, dim=1):
            logits, state = model(part, state)
        features, _ = model.encode(x, model.initial_state(batch))
        window = features[:, -250:]
        expected = model.classify(torch.cat([window.mean(1), window.amax(1)], -1))
    assert torch.allclose(logits, expected, atol=1e-5)


@pytest.mark.parametrize("pooling", ["mean", "mean+max", "mean+peaks"])
@pytest.mark.parametrize("hops", [1, 4, 10, 13])
def test_hops_through_a_stem_of_three_end_where_the_last_window_at_once_does(pooling, hops):
    model = random_model(dataclasses.replace(CONFIGS["stem-of-three"], pooling=pooling))
    x = torch.randn(2, hops * 100, 12, generator=torch.Generator().manual_seed(hops))
    with torch.inference_mode():
        state = model.initial_state(2)
        for part in x.split(100, dim=1):
            logits, state = model(part, state)
        features, _ = model.encode(x, model.initial_state(2))
        expected = model.classify(model.pool_window(features[:, -250:]))
    assert torch.allclose(logits, expected, atol=1e-5)


@pytest.mark.parametrize("at", [0, 4, 52, 96])
def test_a_stem_of_three_sees_nothing_of_the_next_frame(at):
    model = random_model(CONFIGS["stem-of-three"])
    x = torch.randn(1, 100, 12, generator=torch.Generator().manual_seed(at))
    changed = x.clone()
    changed[:, at:] += 10.0
    with torch.inference_mode():
        before, after = (model.encode(each, model.initial_state(1))[0] for each in (x, changed))
    assert torch.equal(before[:, : at // 4], after[:, : at // 4])
    assert not torch.equal(before[:, at // 4 :], after[:, at // 4 :])


def test_a_stem_whose_strides_do_not_make_up_the_models_is_refused():
    with pytest.raises(ValueError, match="no multiple of the strides"):
        ModelConfig(stride=4, stem_layers=((8, 7, 3),))


def test_whole_records_and_hops_agree_from_a_cold_state(model):
    x = torch.randn(4, 1000, 12, generator=torch.Generator().manual_seed(3))
    with torch.inference_mode():
        whole, _ = model(x)
        state = model.initial_state(4)
        for part in x.split(100, dim=1):
            logits, state = model(part, state)
    assert torch.allclose(logits, whole, atol=1e-5)


@given(at=st.integers(0, 9))
def test_nothing_that_comes_later_changes_what_was_said_before(model, at):
    x = torch.randn(1, 1000, 12, generator=torch.Generator().manual_seed(4))
    changed = x.clone()
    changed[:, at * 100 :] += 10.0
    with torch.inference_mode():
        before, _ = model.encode(x, model.initial_state(1))
        after, _ = model.encode(changed, model.initial_state(1))
    assert torch.equal(before[:, : at * 25], after[:, : at * 25])
    assert not torch.equal(before[:, at * 25 :], after[:, at * 25 :])


@pytest.mark.parametrize(
    "config",
    [
        SMALL,
        ModelConfig(d_model=16, n_layers=1, stem_kernel=4, pooling="mean"),
        load_preset("ecg-mamba-seed").model,
        CONFIGS["stem-of-three"],
    ],
)
def test_the_stated_layout_is_the_state_that_comes_out(config):
    model = EcgMamba(config).eval()
    _, state = model(torch.zeros(2, 100, 12))
    assert {name: tuple(x.shape[1:]) for name, x in state.items()} == {
        name: shape for name, (shape, _) in state_layout(config).items()
    }


def test_decays_that_are_multiples_stay_so_in_training_and_are_written_down_as_computed_with():
    torch.manual_seed(0)
    model = EcgMamba(ModelConfig(d_model=16, n_layers=2, d_state=8, decays="multiples"))
    begun = model.blocks[0].A_log.detach().clone()
    optimiser = torch.optim.AdamW(model.parameters(), lr=1e-2, weight_decay=0.0)
    x = torch.randn(4, 100, 12)
    for _ in range(30):
        optimiser.zero_grad()
        model(x)[0].square().sum().backward()
        optimiser.step()
    model.eval()
    before, _ = model(x)
    model.settle()
    after, _ = model(x)
    assert torch.allclose(before, after, atol=1e-5)
    for block in model.blocks:
        rates = block.A_log.detach().exp()
        assert torch.allclose(rates, rates[:, :1] * torch.arange(1, 9), rtol=1e-6)
    assert (model.blocks[0].A_log - begun).abs().max() > 1e-2  # and they do learn


def test_free_decays_are_left_as_they_are_by_settling():
    model = random_model(ModelConfig(d_model=16, n_layers=1, d_state=8))
    before = model.blocks[0].A_log.detach().clone()
    model.settle()
    assert torch.equal(model.blocks[0].A_log, before)
