"""The presets that ship: as large as stated, of the task stated, and each one trains and answers."""

from __future__ import annotations

import json

import msgspec
import numpy as np
import pytest
import torch

from edge.errors import ConfigError
from edge.runtime.manifest import SignalSpec
from tests.small_networks import SMALLER
from tests.tiny_ptbxl import rows_of, write_ptbxl
from trainer.augment import AUGMENTATIONS, Augmentation
from trainer.batches import augmented, batches
from trainer.checkpoint import load_checkpoint
from trainer.cli import main
from trainer.data import prepared
from trainer.kinds import describe_config, model_config
from trainer.objective import loss_of, positive_weights
from trainer.preset import TrainingPreset, load_preset, preset_names, same_recipe
from trainer.run_folder import BEST_NAME
from trainer.targets import SoftLabels, with_targets
from trainer.tasks import open_task
from trainer.train import Trainer

SHIPPED = {
    "cardionet-xl": 4_135_717, "ecg-mamba-seed": 66_565, "hubert-ecg-base": 92_801_925,
    "hubert-ecg-large": 187_648_581, "hubert-ecg-small": 30_211_717, "inception1d": 507_653, "lstm": 903_685,
    "resnet18-1d": 2_256_965, "resnet1d-wang": 473_349, "resnet1d-wang-monitor": 473_349, "s4-ecg": 2_186_245,
    "simple-cnn-1d": 46_757, "simple-cnn-2d": 6_613, "ssl-encoder": 539_909, "streaming": 178_789,
    "streaming-distilled": 178_789, "tiny": 4_341, "xresnet1d101": 1_872_261,
}  # fmt: skip
SMALLER_MAMBA = {"d_model": 16, "n_layers": 1}
SIGNAL = SignalSpec(100, (0.05, 40.0), [(1.0, 0.0, 0.0, 1.0, 0.0, 0.0)], mean_mv=[0.0] * 12, std_mv=[0.2] * 12)
CODES = ["NORM", "IMI", "NDT", "LAFB", "LVH"]


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    folder = tmp_path_factory.mktemp("presets")
    write_ptbxl(folder / "ptb-xl", rows_of(CODES * 2, [1, 9]))
    return folder / "ptb-xl"


@pytest.fixture
def cache(root, monkeypatch):
    monkeypatch.setenv("ECG_EDGE_CACHE", str(root.parent / "cache"))


def smaller(name, **training):
    """A shipped preset with a small model, everything else as it is."""
    preset = load_preset(name)
    table = describe_config(preset.model) | (SMALLER_MAMBA if preset.kind == "mamba" else SMALLER.get(preset.kind, {}))
    recipe = msgspec.structs.replace(preset.training, epochs=2, batch_size=4, **training)
    model = msgspec.convert(msgspec.to_builtins(table), type(preset.model))
    return msgspec.structs.replace(preset, model=model, training=recipe)


def listed(capsys, *asked):
    assert main(["presets", *asked, "--json"]) == 0
    return {preset["name"]: preset for preset in json.loads(capsys.readouterr().out)["presets"]}


def test_every_preset_is_listed_with_its_size_task_and_kind(capsys):
    presets = listed(capsys)
    assert {name: preset["parameters"] for name, preset in presets.items()} == SHIPPED
    recurrent = {name for name, preset in presets.items() if preset["kind"] == "recurrent"}
    assert recurrent == {"streaming", "streaming-distilled", "tiny", "ecg-mamba-seed"}
    assert presets["simple-cnn-1d"]["task"] == "scp-top-5 at 50 %"
    assert presets["cardionet-xl"]["task"] == "superclass"


@pytest.mark.parametrize("name", sorted(set(SHIPPED) - {"hubert-ecg-base", "hubert-ecg-large"}))
@pytest.mark.usefixtures("cache")
def test_every_recipe_trains_with_a_small_model_and_what_it_keeps_comes_back(name, root, tmp_path):
    preset = smaller(name)
    data = open_task(root, msgspec.structs.replace(preset.task, min_likelihood=0.0))
    rows, tune_rows = data.rows([1]), data.rows([9])
    signal, train, (tune,) = prepared(data, rows, [tune_rows], preset.signal)
    sure = SoftLabels(data.ecg_ids[rows], train.labels.astype(np.float32), data.classes)
    taught = [sure] if preset.training.soft_label_share > 0 else []
    trainer = Trainer(
        preset, signal, with_targets(train, data, rows, preset.training, taught, seed=0), tune, tmp_path, 0, {}
    )
    trainer.run()
    assert all(np.isfinite(epoch.loss) for epoch in trainer.history)
    kept = load_checkpoint(tmp_path / BEST_NAME)
    assert kept.facts.classes == list(data.classes)
    assert trainer.kept_logits(tune.signals).shape == (10, 5)


def test_every_preset_of_the_package_is_in_the_list_above():
    assert set(preset_names()) == set(SHIPPED)


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("[training]\naugment = [{ name = 'warp' }]\n", "heart_rate_warp"),
        ("[training]\nloss = 'cross_entropy'\nfocal_gamma = 2.0\n", "focal_gamma"),
        ("[training]\nloss = 'cross_entropy'\nsoft_label_share = 0.5\n", "soft_label_share"),
        ("[training]\nloss = 'cross_entropy'\nstatements_weight = 0.5\n", "statements_weight"),
        ("[training]\nloss = 'cross_entropy'\nmixup = 0.4\n", "mixup belongs to"),
        ("[training]\nloss = 'cross_entropy'\naugment = [{ name = 'segment_cutmix' }]\n", "segment_cutmix belongs to"),
        ("[model]\nvote_hops = 2\n[training]\nloss = 'cross_entropy'\n", "vote_hops"),
        ("[training]\ncrop_s = 10.5\n", "crop_s = 10.5 is longer than a record of 10 s"),
        ("[pretraining.simclr]\ncrop_s = 12\n", "crop_s = 12 is longer than a record of 10 s"),
        ("[pretraining.masked_clusters]\nepochs = 3\n", "hubert-ecg"),
        ("[task]\nlabels = 'table'\n", "belong together"),
        ("[task]\nlabels = 'diagnoses'\n", "diagnoses"),
        ("[task]\nmin_likelihood = 200\n", "min_likelihood"),
        ("[model]\nkind = 'resnet1d-wang'\nlayout = 'print'\n", "layout"),
        ("[model]\nkind = 'resnet1d-wang'\nlayout = 'print_3x4'\n[training]\ncrop_s = 2.5\n", "shows whole records"),
        ("base = 'nothing'\n", "no preset nothing"),
        ("base = 'streaming-distilled'\n", "name that one"),
        ("base = 'tiny'\ntraining = 5\n", "training"),
        ("base = 'ssl-encoder'\n[pretraining]\nsimclr = 5\n", "simclr"),
    ],
)
def test_what_a_preset_cannot_ask_for_is_refused_by_name(tmp_path, text, named):
    path = tmp_path / "mine.toml"
    path.write_text(text)
    with pytest.raises(ConfigError, match=named):
        load_preset(str(path))


def test_a_preset_with_a_base_differs_in_what_it_says(tmp_path):
    path = tmp_path / "mine.toml"
    path.write_text("base = 'tiny'\n[training]\nepochs = 77\n[model]\nd_model = 8\n")
    mine, tiny = load_preset(str(path)), load_preset("tiny")
    assert (mine.training.epochs, mine.model.d_model, mine.about, mine.claims) == (77, 8, "", ())
    assert msgspec.structs.replace(mine.training, epochs=tiny.training.epochs) == tiny.training
    assert describe_config(mine.model) | {"d_model": tiny.model.d_model} == describe_config(tiny.model)
    assert (mine.signal, mine.kind) == (tiny.signal, tiny.kind)


def test_a_preset_with_a_base_changes_a_pre_training_setting_by_setting(tmp_path):
    path = tmp_path / "mine.toml"
    path.write_text("base = 'ssl-encoder'\n[pretraining.simclr]\nepochs = 5\n")
    mine, base = load_preset(str(path)).pretraining, load_preset("ssl-encoder").pretraining
    assert mine.simclr == msgspec.structs.replace(base.simclr, epochs=5)
    assert mine.byol == base.byol


def test_a_description_without_newer_settings_is_the_preset_with_their_defaults():
    preset = load_preset("streaming")
    before = preset.describe()
    del before["task"], before["training"]["augment"], before["training"]["focal_gamma"]
    assert same_recipe(before, preset)
    other = msgspec.structs.replace(preset, training=msgspec.structs.replace(preset.training, focal_gamma=1.0))
    assert not same_recipe(before, other)


def test_positives_of_a_rare_class_weigh_as_much_as_its_negatives():
    labels = np.zeros((10, 3), np.float32)
    labels[:2, 0] = labels[:8, 1] = 1
    weights = positive_weights(labels, TrainingPreset(positive_weight="balanced"))
    assert weights.tolist() == [4.0, 1.0, 10.0]
    assert positive_weights(labels, TrainingPreset()) is None
    logits, targets = torch.zeros(1, 3), torch.tensor([[1.0, 0.0, 0.0]])
    loss = loss_of(logits, targets, 3, TrainingPreset(), weights)
    assert loss.item() == pytest.approx(np.log(2) * (4 + 1 + 1) / 3)


def test_one_label_a_record_is_learned_from_the_classes_alone_and_by_the_shares_of_a_mixture():
    recipe, logits = TrainingPreset(loss="cross_entropy"), torch.tensor([[2.0, 0.0, 0.0, 9.0]])
    right, mixture = torch.tensor([[1.0, 0.0, 0.0, 1.0]]), torch.tensor([[0.75, 0.25, 0.0, 0.0]])
    log_p = np.log(np.exp([2.0, 0.0]) / (np.exp(2) + 2))
    assert loss_of(logits, right, 3, recipe).item() == pytest.approx(-log_p[0])  # the fourth output is a statement
    assert loss_of(logits, mixture, 3, recipe).item() == pytest.approx(-0.75 * log_p[0] - 0.25 * log_p[1])
    both = loss_of(logits, right, 3, TrainingPreset(loss="cross_entropy", statements_weight=0.5)).item()
    assert both == pytest.approx(-log_p[0] + 0.5 * np.log1p(np.exp(-9.0)), rel=1e-5)


def test_focal_loss_forgives_what_is_nearly_right():
    logits, targets = torch.tensor([[3.0, -1.0]]), torch.tensor([[1.0, 1.0]])
    near, far = 1 / (1 + np.exp(3.0)), 1 / (1 + np.exp(-1.0))
    expected = (near**2 * -np.log(1 - near) + far**2 * -np.log(1 - far)) / 2
    assert loss_of(logits, targets, 2, TrainingPreset(focal_gamma=2.0)).item() == pytest.approx(expected, rel=1e-5)


def test_augmentations_of_a_recipe_change_batches_and_leave_others_as_they_were():
    signals, targets = np.ones((8, 1000, 12), np.float32), np.eye(8, dtype=np.float32)

    def epoch(recipe):
        return list(batches(signals, targets, recipe, SIGNAL, 1, np.random.default_rng(0)))

    noisy = TrainingPreset(batch_size=4, augment=(Augmentation("channel_noise", settings={"most_mv": 0.1}),))
    crops = torch.cat([batch.crops for batch in epoch(noisy)])
    assert 0.02 < crops.std(1).mean() * 0.2 < 0.1  # millivolts, whatever the normalisation
    assert all(torch.equal(batch.crops, torch.ones(4, 250, 12)) for batch in epoch(TrainingPreset(batch_size=4)))


def test_augmentations_are_told_millivolts_whatever_the_normalisation():
    records_mv = np.random.default_rng(0).normal(0.5, 1.0, (8, 1000, 12)).astype(np.float32)
    mean_mv, std_mv = np.linspace(-0.2, 0.3, 12), np.linspace(0.05, 0.6, 12)
    per_lead = msgspec.structs.replace(SIGNAL, mean_mv=mean_mv.tolist(), std_mv=std_mv.tolist())
    recipe = TrainingPreset(batch_size=8, crop_s=10.0, augment=(Augmentation("time_shift"),))
    seen = []

    def watched(ecg, rate_hz, rng):
        seen.append(ecg)
        return ecg

    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(AUGMENTATIONS, "time_shift", watched)
        normalised = ((records_mv - mean_mv) / std_mv).astype(np.float32)
        (batch,) = batches(normalised, np.eye(8, dtype=np.float32), recipe, per_lead, 1, np.random.default_rng(0))
    order = batch.targets.argmax(1).numpy()
    np.testing.assert_allclose(seen[0], records_mv[order], atol=1e-5)
    np.testing.assert_allclose(batch.crops.numpy(), normalised[order], atol=1e-4)


def test_white_noise_is_as_high_in_millivolts_on_every_lead():
    std_mv = np.linspace(0.05, 0.6, 12)
    silence, recipe = np.zeros((64, 1000, 12), np.float32), TrainingPreset(noise_mv=0.1)
    noise_mv = augmented(silence, recipe, std_mv, np.random.default_rng(0)) * std_mv
    height_mv = noise_mv.std(1)  # (batch, leads)
    np.testing.assert_allclose(height_mv, np.broadcast_to(height_mv.mean(1, keepdims=True), (64, 12)), rtol=0.15)
    assert 0.04 < height_mv.mean() < 0.06  # evenly up to 0.1


def test_the_model_of_a_preset_is_stated_whole(capsys):
    described = listed(capsys, "s4-ecg")["s4-ecg"]
    assert model_config("s4-ecg", described["model"]).d_state == 8
