"""SimCLR, BYOL and causal predictive coding: what each promises, by hand where it can be; a killed run goes on."""

from __future__ import annotations

import json
import math

import msgspec
import numpy as np
import pytest
import torch

from edge.errors import ConfigError
from edge.runtime.manifest import SignalSpec
from tests.small_networks import ecg, small_config
from tests.tiny_ptbxl import rows_of, write_ptbxl
from trainer.augment import Augmentation
from trainer.batches import Batch
from trainer.checkpoint import load_checkpoint
from trainer.cli import main
from trainer.data import Split
from trainer.distributed import Workers
from trainer.kinds import build_model
from trainer.model import EcgMamba, ModelConfig
from trainer.preset import Preset, SignalPreset, TrainingPreset
from trainer.pretraining.byol import Byol, agreement
from trainer.pretraining.cpc import Cpc, frames_and_context, recognition_logits, steps_ahead, unseen_after
from trainer.pretraining.method import Surroundings, features_of
from trainer.pretraining.plans import ByolPlan, CpcPlan, SimClrPlan
from trainer.pretraining.run import Pretraining, recipe_of
from trainer.pretraining.simclr import SimClr, nt_xent
from trainer.run_folder import BEST_NAME
from trainer.transfer import body

SIGNAL = SignalSpec(
    rate_hz=100, band_hz=(0.05, 40.0), sos=[(1.0, 0.0, 0.0, 1.0, 0.0, 0.0)], mean_mv=[0.0] * 12, std_mv=[0.2] * 12
)
NOISE = (Augmentation("channel_noise"), Augmentation("mixup", chance=0.5))
RECIPE = TrainingPreset(crop_s=2.5, carried_share=0.5, gain_jitter=0.1, augment=NOISE, label_share=0.1, frozen=True)
MAMBA = Preset(
    "tiny-mamba", "mamba", ModelConfig(d_model=16, n_layers=1, d_state=8, dropout=0.1), SignalPreset(), RECIPE
)
ENCODER = Preset("tiny-encoder", "ssl-encoder", small_config("ssl-encoder", width=8), SignalPreset(), RECIPE)
RUNS = {
    "simclr": (ENCODER, SimClrPlan(epochs=2, batch_size=8, d_projected=8)),
    "byol": (ENCODER, ByolPlan(epochs=2, batch_size=8, d_hidden=16, d_projected=8, decay=0.9)),
    "cpc": (MAMBA, CpcPlan(epochs=2, batch_size=8, moments=4, predictions=3, reach_s=0.5)),
}


pytestmark = pytest.mark.usefixtures("one_thread")


def given(seed=0):
    return Surroundings(Workers(), "float32", torch.Generator().manual_seed(seed), seed, 100)


def waves(records=24):
    """Records of one rhythm each."""
    time_s, rng = np.arange(1000) / 100, np.random.default_rng(0)
    rates, shifts = rng.uniform(0.8, 2.5, (records, 1, 1)), rng.uniform(0, 6, (records, 1, 12))
    return np.sin(2 * np.pi * rates * time_s[None, :, None] + shifts).astype(np.float32)


def run_in(out, name, **changes):
    preset, plan = RUNS[name]
    split = Split(waves(), np.zeros((24, 5), np.float32))
    return Pretraining(preset, name, msgspec.structs.replace(plan, **changes), SIGNAL, split, out, 0, {})


# SimCLR


def test_nt_xent_of_a_batch_that_was_worked_out_by_hand():
    """Two records. First views e1 and e2; their second views at 60 degrees from each, towards the other.

    Cosines: e1·e1' = 1/2, e1·e2' = √3/2, e1·e2 = 0, e1'·e2' = √3/2; by symmetry both records lose alike.
    """
    half, far = 0.5, math.sqrt(3) / 2
    views = torch.tensor([[2.0, 0.0], [0.0, 5.0], [half, far], [far, half]])
    temperature = 0.07
    first = -math.log(math.exp(half / temperature) / sum(math.exp(c / temperature) for c in (half, far, 0.0)))
    second = -math.log(math.exp(half / temperature) / sum(math.exp(c / temperature) for c in (half, far, far)))
    assert nt_xent(views, temperature)[0].item() == pytest.approx((first + second) / 2, rel=1e-5)


def test_nt_xent_knows_no_length_and_is_lowest_where_views_agree():
    views = torch.eye(4).repeat(2, 1)
    assert nt_xent(views, 0.07)[0].item() == pytest.approx(math.log(1 + 6 * math.exp(-1 / 0.07)), abs=1e-7)
    scaled = views * torch.rand(8, 1).add(0.1)
    torch.testing.assert_close(nt_xent(scaled, 0.07)[0], nt_xent(views, 0.07)[0])
    assert nt_xent(torch.eye(4).repeat_interleave(2, 0), 0.07)[0] > 10


def test_simclr_scores_a_batch_whose_views_are_equal_as_all_found():
    method = SimClr(build_model("ssl-encoder", ENCODER.model), SimClrPlan(), given())
    crops = ecg(6, 250)
    loss, found = method.loss(Batch(torch.cat([crops, crops]), torch.zeros(12, 0), carried=False))
    assert found == 1.0
    loss.backward()
    assert method.network.blocks[0][0].weight.grad.abs().sum() > 0


def test_features_are_what_enters_the_last_layer():
    network = build_model("ssl-encoder", ENCODER.model).eval()
    x = ecg(2, 300)
    assert torch.equal(network.head(features_of(network, x)), network(x))
    assert torch.equal(features_of(network, x), network.features(x))


# BYOL


@pytest.fixture
def byol():
    torch.manual_seed(0)
    return Byol(build_model("ssl-encoder", ENCODER.model), RUNS["byol"][1], given())


def test_byols_target_starts_as_the_equal_of_network_and_projector(byol):
    online = byol.online.state_dict()
    assert "projector.0.weight" in online
    assert all(torch.equal(tensor, online[name]) for name, tensor in byol.target.state_dict().items())


def test_byols_target_is_exactly_a_moving_average_and_has_no_gradient(byol):
    optimiser = torch.optim.SGD(byol.trained.parameters(), lr=0.1)
    expected = {name: tensor.clone() for name, tensor in byol.target.named_parameters()}
    for seed in range(3):
        loss, _ = byol.loss(Batch(ecg(8, 250, seed), torch.zeros(8, 0), carried=False))
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        byol.stepped()
        for name, fast in byol.online.named_parameters():
            expected[name] = 0.9 * expected[name] + (1 - 0.9) * fast.detach()
    assert all(parameter.grad is None for parameter in byol.target.parameters())
    trained = {id(parameter) for parameter in byol.trained.parameters()}
    assert not any(id(parameter) in trained for parameter in byol.target.parameters())
    for name, slow in byol.target.named_parameters():
        torch.testing.assert_close(slow, expected[name])
        if not name.startswith("network.head"):  # which BYOL does not use
            assert not torch.equal(slow, byol.online.get_parameter(name)), name


def test_each_view_foretells_the_other_one():
    foretold = torch.tensor([[1.0, 0.0], [0.0, 1.0], [1.0, 1.0], [0.0, -1.0]])  # two records: rows 0 and 2, 1 and 3
    aims = torch.tensor([[3.0, 3.0], [0.0, 2.0], [0.0, 7.0], [0.0, 1.0]])
    assert agreement(foretold, aims).item() == pytest.approx((0.0 + 1.0 + 1.0 - 1.0) / 4)


# Causal predictive coding

STEMS = {
    "one convolution": ModelConfig(d_model=16, n_layers=2, d_state=8),
    "several": ModelConfig(d_model=16, n_layers=1, d_state=8, stem_layers=((8, 5, 2), (8, 5, 1)), stride=4),
}


@pytest.mark.parametrize("stem", STEMS)
def test_the_context_cannot_see_the_future(stem):
    torch.manual_seed(0)
    model = EcgMamba(STEMS[stem]).eval()
    state = {name: torch.randn_like(tensor) for name, tensor in model.initial_state(2).items()}
    x, at = ecg(2, 400), 52
    _, context, _ = frames_and_context(model, x, state)
    x[:, 4 * (at + 1) :] += torch.randn(2, 400 - 4 * (at + 1), 12)
    _, changed, _ = frames_and_context(model, x, state)
    assert torch.equal(changed[:, : at + 1], context[:, : at + 1])
    assert not torch.isclose(changed[:, at + 1 :], context[:, at + 1 :]).all(-1).any()


@pytest.mark.parametrize("stem", STEMS)
def test_what_is_foretold_shares_no_sample_with_the_context_and_no_less_would_do(stem):
    torch.manual_seed(0)
    model, ahead = EcgMamba(STEMS[stem]).eval(), unseen_after(STEMS[stem])
    x, at = ecg(1, 400), 40
    before, _, _ = frames_and_context(model, x, model.initial_state(1))
    x[:, : 4 * (at + 1)] = 0
    after, _, _ = frames_and_context(model, x, model.initial_state(1))
    assert torch.equal(after[:, at + ahead], before[:, at + ahead])
    assert not torch.equal(after[:, at + ahead - 1], before[:, at + ahead - 1])


def test_predictions_reach_as_far_as_asked():
    assert steps_ahead(STEMS["one convolution"], CpcPlan(reach_s=1.0, predictions=12), 100)[::11] == [2, 25]
    assert steps_ahead(STEMS["one convolution"], CpcPlan(reach_s=0.1, predictions=12), 100) == [2]
    with pytest.raises(ConfigError, match="reach_s"):
        steps_ahead(STEMS["one convolution"], CpcPlan(reach_s=0.05), 100)


def test_a_prediction_is_compared_with_every_moment_of_every_record():
    frames = torch.eye(6).reshape(2, 3, 6)
    logits = recognition_logits(3 * frames, 2 * frames)
    torch.testing.assert_close(logits, torch.eye(6))


def test_cpc_goes_on_from_the_state_that_the_batch_before_left_behind():
    method = Cpc(EcgMamba(MAMBA.model).eval(), RUNS["cpc"][1], given())
    first, then = ecg(2, 248), ecg(2, 248, seed=1)
    method.loss(Batch(first, torch.zeros(2, 0), carried=False))
    assert not any(tensor.requires_grad for tensor in method.left_behind.values())
    method.loss(Batch(then, torch.zeros(2, 0), carried=True))
    _, after = method.network.encode(torch.cat([first, then], 1), method.network.initial_state(2))
    for name, tensor in after.items():
        torch.testing.assert_close(method.left_behind[name], tensor, atol=1e-5, rtol=1e-4)


def test_crops_shorter_than_the_reach_are_refused():
    method = Cpc(EcgMamba(MAMBA.model), RUNS["cpc"][1], given())
    with pytest.raises(ConfigError, match="too short"):
        method.loss(Batch(ecg(2, 48), torch.zeros(2, 0), carried=False))


# The run


class Killed(Exception):
    """Stands for a kill: nothing is tidied up after it."""


def die(epoch):
    raise Killed


@pytest.mark.parametrize("name", RUNS)
def test_a_killed_run_goes_on_to_the_very_weights_of_an_uninterrupted_one(tmp_path, name):
    whole = run_in(tmp_path / "whole", name)
    whole.run()
    with pytest.raises(Killed):
        run_in(tmp_path / "cut", name).run(on_epoch=die)
    cut = run_in(tmp_path / "cut", name)
    cut.run()
    assert [epoch.loss for epoch in cut.history] == [epoch.loss for epoch in whole.history]
    assert all(torch.equal(tensor, body(cut.network)[name]) for name, tensor in body(whole.network).items())


@pytest.mark.parametrize("name", RUNS)
def test_every_method_learns(tmp_path, name):
    run = run_in(tmp_path, name, epochs=12, learning_rate=5e-3)
    run.run()
    assert np.mean([epoch.loss for epoch in run.history[-3:]]) < 0.9 * run.history[0].loss
    assert run.history[-1].score > run.history[0].score


def test_pre_training_is_the_same_whatever_becomes_of_labels():
    plan = RUNS["simclr"][1]
    other = TrainingPreset(crop_s=2.5, carried_share=0.5, gain_jitter=0.1, augment=NOISE, epochs=99, focal_gamma=2.0)
    labelled = msgspec.structs.replace(ENCODER, training=other)
    assert recipe_of(labelled, plan) == recipe_of(ENCODER, plan)
    assert recipe_of(ENCODER, plan).label_share == 1.0
    shorter = msgspec.structs.replace(plan, crop_s=1.0, augment=())
    assert (recipe_of(ENCODER, shorter).crop_s, recipe_of(ENCODER, shorter).augment) == (1.0, ())


def test_the_command_pre_trains_by_any_method_and_its_weights_start_a_training(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("ECG_EDGE_CACHE", str(tmp_path / "cache"))
    root = str(write_ptbxl(tmp_path / "ptb-xl", rows_of(["NORM", "IMI", "SR"] * 3, [1, 9])))
    preset = tmp_path / "mine.toml"
    preset.write_text(
        '[model]\nkind = "ssl-encoder"\nwidth = 8\n[training]\nepochs = 1\nbatch_size = 4\naverage_decay = 0.0\n'
        "[pretraining.simclr]\nbatch_size = 4\n"
    )
    common = ["--data", root, "--preset", str(preset), "--folds", "1", "--threads", "1", "--json"]
    for method in ("simclr", "byol"):
        out = tmp_path / method
        assert main(["pretrain", *common, "--method", method, "--epochs", "1", "--out", str(out)]) == 0
        assert json.loads(capsys.readouterr().out)["records"] == 9  # those without a label too
        made = load_checkpoint(out / BEST_NAME).facts.training
        assert made["pretraining"]["method"] == method
        assert f"--method {method}" in made["command"]
        assert main(["train", *common, "--init", str(out / BEST_NAME), "--out", str(tmp_path / f"{method}-tuned")]) == 0
        assert json.loads(capsys.readouterr().out)["epochs"] == 1
