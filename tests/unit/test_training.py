"""Training: what batches are made of, that it learns, and that a killed run goes on to the very same weights."""

from __future__ import annotations

import dataclasses
import json

import msgspec
import numpy as np
import pytest
import torch

from edge.errors import BundleError, ConfigError
from edge.runtime.manifest import SignalSpec
from edge.signal.bandpass import CausalBandpass
from edge.signal.leads import STANDARD_LEADS
from tests.random_models import random_bundle
from tests.tiny_ptbxl import rows_of, write_ptbxl
from trainer.batches import Batch, augmented, batches, batches_per_epoch, mixed, random_crops, whole_frames
from trainer.checkpoint import load_checkpoint, save_checkpoint
from trainer.cli import main
from trainer.data import Split, fit_signal, load_split, prepared, records_mv
from trainer.kinds import build_model, narrowed, record_logits, with_outputs
from trainer.mixed_precision import computed_in
from trainer.model import EcgMamba
from trainer.networks.resnet import ResnetConfig
from trainer.objective import learning_rate, loss_of, training_logits
from trainer.one_label import only_single_label
from trainer.predict import cached_logits
from trainer.preset import SignalPreset, TrainingPreset, load_preset
from trainer.ptbxl import CLASSES, open_ptbxl
from trainer.run_folder import BEST_NAME, HISTORY_NAME, LAST_NAME, RunMismatchError
from trainer.train import DivergedError, Trainer, macro_auc

CODES = ["NORM", "IMI", "NDT", "LAFB", "LVH"]
TINY = load_preset("tiny")
SIGNAL = SignalSpec(100, (0.05, 40.0), [(1.0, 0.0, 0.0, 1.0, 0.0, 0.0)], mean_mv=[0.0] * 12, std_mv=[0.2] * 12)
STD_MV = np.array(SIGNAL.std_mv)
LIVELY = TrainingPreset(gain_jitter=0.2, noise_mv=0.01, lead_dropout=0.1, carried_share=0.5, batch_size=4)


pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    folder = tmp_path_factory.mktemp("ptbxl")
    write_ptbxl(folder / "ptb-xl", rows_of(CODES * 4, [1, 9]))
    return folder / "ptb-xl"


@pytest.fixture(scope="module")
def data(root):
    return open_ptbxl(root, root.parent / "cache")


@pytest.fixture(scope="module")
def signal(data):
    return fit_signal(data, data.rows([1]), SignalPreset())


@pytest.fixture(scope="module")
def splits(data, signal):
    return tuple(load_split(data, data.rows([fold]), signal.frontend()) for fold in (1, 9))


@pytest.fixture
def trainer_in(splits, signal):
    """Builds a run in a folder."""

    def build(out, preset=TINY, seed=0):
        return Trainer(preset, signal, *splits, out, seed, {"command": "test"})

    return build


def with_training(preset, **changes):
    return msgspec.structs.replace(preset, training=msgspec.structs.replace(preset.training, **changes))


def noise(*shape, seed=0):
    return np.random.default_rng(seed).standard_normal(shape, dtype=np.float32)


def epoch_of(seed, preset=LIVELY):
    signals, labels = noise(9, 1000, 12), np.eye(5, dtype=np.float32)[np.arange(9) % 5]
    return list(batches(signals, labels, preset, SIGNAL, 4, np.random.default_rng(seed)))


# Front-end


def test_the_global_normalisation_is_one_number_that_makes_the_training_records_one(data, signal):
    assert signal.mean_mv == [0.0] * 12
    assert len(set(signal.std_mv)) == 1
    split = load_split(data, data.rows([1]), signal.frontend())
    assert np.sqrt((split.signals.astype(np.float64) ** 2).mean()) == pytest.approx(1.0, abs=1e-5)


def test_normalisation_per_lead_takes_each_leads_own_mean_and_deviation(data):
    rows = data.rows([1])
    spec = fit_signal(data, rows, SignalPreset(normalise="per_lead")).frontend()
    signals = load_split(data, rows, spec).signals.astype(np.float64)
    np.testing.assert_allclose(signals.mean((0, 1)), 0.0, atol=1e-5)
    np.testing.assert_allclose(signals.std((0, 1)), 1.0, atol=1e-5)


def test_a_split_is_filtered_by_the_filter_that_serves(data, signal, splits):
    spec = signal.frontend()
    filtered = CausalBandpass(spec.sos).process(records_mv(data, data.rows([9]))[3])
    np.testing.assert_allclose(splits[1].signals[3], filtered / spec.std_mv, rtol=1e-6)


# Batches


def test_augmentation_leaves_its_input_as_it_was():
    crops = noise(4, 100, 12)
    before = crops.copy()
    changed = augmented(crops, LIVELY, STD_MV, np.random.default_rng(1))
    np.testing.assert_array_equal(crops, before)
    assert not np.array_equal(changed, crops)
    assert changed.dtype == np.float32


def test_the_same_seed_augments_alike_and_another_one_otherwise():
    crops = noise(4, 100, 12)
    first, again, other = (augmented(crops, LIVELY, STD_MV, np.random.default_rng(seed)) for seed in (1, 1, 2))
    np.testing.assert_array_equal(first, again)
    assert not np.array_equal(first, other)


def test_without_any_augmentation_a_crop_is_the_record_itself():
    crops = noise(4, 100, 12)
    np.testing.assert_array_equal(augmented(crops, TrainingPreset(), STD_MV, np.random.default_rng(1)), crops)


def test_gain_stays_within_its_limits_and_is_one_number_per_crop():
    ones = np.ones((64, 10, 12), dtype=np.float32)
    gains = augmented(ones, TrainingPreset(gain_jitter=0.2), STD_MV, np.random.default_rng(1))
    assert gains.min() >= 0.8
    assert gains.max() <= 1.2
    assert np.ptp(gains, axis=(1, 2)).max() == 0.0
    assert np.ptp(gains[:, 0, 0]) > 0.2


def test_a_dropped_lead_is_silent_throughout_and_the_others_are_untouched():
    crops = np.abs(noise(64, 50, 12)) + 1.0
    changed = augmented(crops, TrainingPreset(lead_dropout=0.25), STD_MV, np.random.default_rng(1))
    silent = (changed == 0).all(axis=1)
    assert 0.1 < silent.mean() < 0.4
    np.testing.assert_array_equal(changed, crops * ~silent[:, None, :])


def test_crops_start_anywhere_up_to_the_end_of_the_record():
    ramp = np.tile(np.arange(20, dtype=np.float32)[None, :, None], (500, 1, 1))
    crops = random_crops(ramp, np.arange(500), 17, np.random.default_rng(0))
    assert crops.shape == (500, 17, 1)
    assert set(crops[:, 0, 0]) == {0.0, 1.0, 2.0, 3.0}
    assert (np.diff(crops[:, :, 0], axis=1) == 1).all()


def test_a_crop_as_long_as_the_record_is_the_record():
    signals = noise(3, 20, 2)
    np.testing.assert_array_equal(
        random_crops(signals, np.array([2, 0]), 20, np.random.default_rng(0)), signals[[2, 0]]
    )


def test_crops_hold_whole_frames():
    assert whole_frames(2.5, 100, 4) == 248
    assert whole_frames(10.0, 100, 4) == 1000
    assert whole_frames(0.001, 100, 4) == 4


def test_one_seed_gives_one_epoch_of_batches():
    for first, again in zip(epoch_of(3), epoch_of(3), strict=True):
        assert torch.equal(first.crops, again.crops)
        assert torch.equal(first.targets, again.targets)
        assert first.carried == again.carried
    assert not torch.equal(epoch_of(3)[0].crops, epoch_of(4)[0].crops)


def test_an_epoch_leaves_its_incomplete_batch_out():
    assert [len(batch.crops) for batch in epoch_of(0)] == [4, 4]
    assert batches_per_epoch(9, LIVELY) == 2


def test_the_share_of_batches_with_carried_state_is_as_asked():
    preset = msgspec.structs.replace(LIVELY, batch_size=1, carried_share=0.75)
    carried = [batch.carried for seed in range(20) for batch in epoch_of(seed, preset)]
    assert 0.65 < np.mean(carried) < 0.85
    assert not any(batch.carried for batch in epoch_of(0, msgspec.structs.replace(LIVELY, carried_share=0.0)))
    burnt_in = [b for seed in range(5) for b in epoch_of(seed, msgspec.structs.replace(preset, burn_in_s=0.5))]
    assert {(batch.carried, batch.burn_in) for batch in burnt_in} == {(True, 12), (False, 0)}  # whole frames of 40 ms


def test_a_carried_batch_goes_on_where_the_one_before_it_ended_and_its_window_starts_empty():
    torch.manual_seed(0)
    model = EcgMamba(TINY.model).eval()
    first, then = torch.from_numpy(noise(2, 248, 12)), torch.from_numpy(noise(2, 248, 12, seed=1))
    _, left_behind = training_logits(model, Batch(first, torch.zeros(2, 5), carried=False), {})
    assert not any(tensor.requires_grad for tensor in left_behind.values())
    whole, _ = model.encode(torch.cat([first, then], 1), model.initial_state(2))
    expected, _ = model.pool(whole[:, 62:], model.initial_state(2))
    logits, _ = training_logits(model, Batch(then, torch.zeros(2, 5), carried=True), left_behind)
    torch.testing.assert_close(logits, model.classify(expected), atol=1e-5, rtol=1e-5)
    behind, _ = training_logits(model, Batch(then, torch.zeros(2, 5), carried=True, burn_in=12), left_behind)
    torch.testing.assert_close(behind, model.classify(model.pool_window(whole[:, 74:])), atol=1e-5, rtol=1e-5)
    cold, _ = training_logits(model, Batch(then, torch.zeros(2, 5), carried=False), left_behind)
    torch.testing.assert_close(cold, model(then)[0])


# The loop


def test_a_few_records_are_learned(trainer_in, tmp_path):
    trainer = trainer_in(tmp_path / "run", with_training(TINY, epochs=30, learning_rate=1e-2, patience_epochs=30))
    best = trainer.run()
    assert trainer.history[-1].loss < 0.6 * trainer.history[0].loss
    assert best.macro_auc > 0.9


def test_the_best_epochs_weights_are_kept_with_what_made_them(trainer_in, tmp_path):
    trainer = trainer_in(tmp_path / "run")
    best = trainer.run()
    kept = load_checkpoint(tmp_path / "run" / BEST_NAME)
    assert kept.facts.classes == list(CLASSES)
    assert kept.facts.leads == list(STANDARD_LEADS)
    assert kept.facts.preset["name"] == "tiny"
    assert kept.facts.training["command"] == "test"
    assert kept.facts.training["seed"] == 0
    assert kept.facts.training["tuning"]["macro_auc"] == best.macro_auc
    assert not kept.model.training


def test_the_history_is_written_as_it_happens(trainer_in, tmp_path):
    seen = []
    trainer_in(tmp_path / "run").run(on_epoch=seen.append)
    lines = (tmp_path / "run" / HISTORY_NAME).read_text().splitlines()
    assert [json.loads(line)["loss"] for line in lines] == [epoch.loss for epoch in seen]


class Killed(Exception):
    """Stands for a kill: nothing is tidied up after it."""


def killed_in_epoch(number, trainer):
    """Run until some steps into an epoch."""
    per_epoch = batches_per_epoch(len(trainer.train.signals), trainer.recipe)
    step = trainer._step

    def step_or_die(batch):
        if trainer.step == (number - 1) * per_epoch + 1:
            raise Killed
        return step(batch)

    trainer._step = step_or_die
    with pytest.raises(Killed):
        trainer.run()


@pytest.mark.parametrize("average_decay", [0.0, 0.9])
def test_a_killed_run_goes_on_to_the_very_weights_of_an_uninterrupted_one(trainer_in, tmp_path, average_decay):
    preset = with_training(TINY, average_decay=average_decay, epochs=3, gain_jitter=0.1)
    whole = trainer_in(tmp_path / "whole", preset)
    whole.run()
    killed_in_epoch(3, trainer_in(tmp_path / "cut", preset))
    cut = trainer_in(tmp_path / "cut", preset)
    cut.run()
    assert [(epoch.loss, epoch.macro_auc) for epoch in cut.history] == [
        (epoch.loss, epoch.macro_auc) for epoch in whole.history
    ]
    for name, tensor in whole.evaluated_model().state_dict().items():
        assert torch.equal(tensor, cut.evaluated_model().state_dict()[name]), name
    weights = [(tmp_path / run / BEST_NAME / "model.safetensors").read_bytes() for run in ("whole", "cut")]
    assert weights[0] == weights[1]


def test_votes_change_what_records_score_and_nothing_of_the_training(trainer_in, tmp_path):
    preset = with_training(TINY, epochs=2, gain_jitter=0.1, carried_share=0.5)
    voting = msgspec.structs.replace(preset, model=dataclasses.replace(preset.model, vote_hops=2))
    runs = [trainer_in(tmp_path / "plain", preset), trainer_in(tmp_path / "votes", voting)]
    for run in runs:
        run.run()
    plain, votes = runs
    assert [epoch.loss for epoch in plain.history] == [epoch.loss for epoch in votes.history]
    for name, tensor in plain.model.state_dict().items():
        assert torch.equal(tensor, votes.model.state_dict()[name]), name
    assert not np.allclose(plain.kept_logits(plain.tune.signals), votes.kept_logits(votes.tune.signals), atol=1e-4)


def test_a_run_killed_before_its_first_epoch_ended_starts_over(trainer_in, tmp_path):
    killed_in_epoch(1, trainer_in(tmp_path / "run"))
    assert not (tmp_path / "run" / LAST_NAME).exists()
    trainer = trainer_in(tmp_path / "run")
    trainer.run()
    assert len(trainer.history) == TINY.training.epochs


def test_a_finished_run_is_not_trained_again(trainer_in, tmp_path):
    trainer_in(tmp_path / "run").run()
    seen = []
    again = trainer_in(tmp_path / "run")
    again.run(on_epoch=seen.append)
    assert seen == []
    assert len(again.history) == TINY.training.epochs


def test_a_folder_with_another_run_is_refused_with_advice(trainer_in, tmp_path):
    trainer_in(tmp_path / "run").run()
    with pytest.raises(RunMismatchError, match="--fresh"):
        trainer_in(tmp_path / "run", with_training(TINY, learning_rate=1e-3)).run()


def test_training_stops_when_tuning_no_longer_improves(trainer_in, tmp_path):
    trainer = trainer_in(tmp_path / "run", with_training(TINY, epochs=50, learning_rate=1e-9, patience_epochs=2))
    trainer.run()
    assert len(trainer.history) < 50
    assert trainer.history[-1].epoch - trainer.best.epoch == 2


def test_averaged_weights_are_what_is_kept(trainer_in, tmp_path):
    trainer = trainer_in(tmp_path / "run", with_training(TINY, average_decay=0.9))
    trainer.run()
    kept = load_checkpoint(tmp_path / "run" / BEST_NAME).model.state_dict()
    head = "head.weight"
    if trainer.best.epoch == len(trainer.history):
        assert torch.equal(kept[head], trainer.average.module.state_dict()[head])
    assert not torch.equal(kept[head], trainer.model.state_dict()[head])


def test_a_batch_of_one_record_is_refused_where_it_has_no_statistics(trainer_in, tmp_path):
    preset = with_training(load_preset("resnet1d-wang"), batch_size=1)
    with pytest.raises(ConfigError, match="two records"):
        trainer_in(tmp_path / "run", preset)


def test_batch_normalisation_of_averaged_weights_has_the_statistics_of_what_they_compute(trainer_in, tmp_path):
    """Those of training, averaged along, would be of no weights at all: after few steps mostly of the random ones."""
    preset = load_preset("ssl-encoder")
    small = msgspec.structs.replace(preset, model=dataclasses.replace(preset.model, width=8))
    trainer = trainer_in(tmp_path / "run", with_training(small, average_decay=0.998, epochs=1, batch_size=4, passes=4))
    trainer.run()
    kept = load_checkpoint(tmp_path / "run" / BEST_NAME).model.eval()
    norms = [module for module in kept.modules() if isinstance(module, torch.nn.BatchNorm1d)]
    seen = {}
    for norm in norms:
        norm.register_forward_pre_hook(lambda module, inputs: seen.__setitem__(module, inputs[0].mean((0, 2))))
    with torch.inference_mode():
        kept(torch.from_numpy(trainer.train.signals))
    assert len(seen) == len(norms) > 3
    for norm, mean in seen.items():
        torch.testing.assert_close(norm.running_mean, mean, rtol=1e-3, atol=1e-4)


def test_single_label_training_leaves_other_records_out(splits):
    train, _ = splits
    both = train.labels.copy()
    both[:5, :2] = 1.0
    seed_recipe = load_preset("ecg-mamba-seed").training
    assert len(only_single_label(Split(train.signals, both), seed_recipe).labels) == len(both) - 5
    assert len(only_single_label(Split(train.signals, both), TINY.training).labels) == len(both)


def test_the_seed_presets_loss_is_learned_and_its_accuracy_reported(trainer_in, tmp_path):
    preset = with_training(TINY, loss="cross_entropy", epochs=12, learning_rate=1e-2, patience_epochs=12)
    trainer = trainer_in(tmp_path / "run", preset)
    trainer.run()
    assert trainer.history[-1].loss < trainer.history[0].loss
    assert trainer.history[-1].accuracy > 0.5


def test_the_learning_rate_rises_once_and_falls_to_nearly_nothing():
    recipe = TrainingPreset(learning_rate=2e-3)
    rates = [learning_rate(step, 1000, recipe) for step in range(1000)]
    top = int(np.argmax(rates))
    assert rates[top] == pytest.approx(2e-3)
    assert np.all(np.diff(rates[: top + 1]) > 0)
    assert np.all(np.diff(rates[top:]) < 0)
    assert rates[-1] < 1e-5


def test_macro_auc_leaves_out_classes_that_cannot_be_ranked():
    labels = np.array([[1, 0], [0, 0], [1, 0]], dtype=np.float32)
    assert macro_auc(labels, np.array([[2, 0], [1, 5], [3, 1]], dtype=np.float32)) == 1.0


# Checkpoints, presets, command line


def test_a_checkpoint_comes_back_with_the_same_answers(signal, tmp_path):
    torch.manual_seed(1)
    model = EcgMamba(TINY.model).eval()
    save_checkpoint(tmp_path, model, TINY.describe(), signal, list(CLASSES), list(STANDARD_LEADS), {})
    record = torch.from_numpy(noise(1, 1000, 12))
    loaded = load_checkpoint(tmp_path)
    assert loaded.streaming_model().config == model.config
    assert loaded.facts.signal == signal
    assert torch.equal(loaded.model(record)[0], model(record)[0])


def test_a_checkpoint_whose_weights_were_changed_is_refused(signal, tmp_path):
    save_checkpoint(tmp_path, EcgMamba(TINY.model), {}, signal, list(CLASSES), list(STANDARD_LEADS), {})
    weights = tmp_path / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1] + b"\x55")
    with pytest.raises(BundleError, match="SHA-256"):
        load_checkpoint(tmp_path)


def test_a_folder_without_a_checkpoint_is_refused(tmp_path):
    with pytest.raises(BundleError, match="no checkpoint"):
        load_checkpoint(tmp_path)


def test_the_seed_preset_has_the_published_number_of_parameters():
    assert sum(p.numel() for p in EcgMamba(load_preset("ecg-mamba-seed").model).parameters()) == 66_565


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("[training]\nepoch = 3\n", "epoch"),
        ("[model]\nwidth = 3\n", "width"),
        ("[training]\nbatch_size = 0\n", "batch_size"),
        ("[signal]\nnormalise = 'record'\n", "record"),
        ("[training\n", "line 1"),
        ("[model]\nkind = 'lstm2d'\n", "mamba"),
        ("[training]\nprecision = 'float16'\n", "float16"),
    ],
)
def test_a_preset_with_a_fault_is_refused_by_name(tmp_path, text, named):
    path = tmp_path / "mine.toml"
    path.write_text(text)
    with pytest.raises(ConfigError, match=named):
        load_preset(str(path))


def test_a_preset_that_does_not_exist_is_answered_with_those_that_do():
    with pytest.raises(ConfigError, match="streaming"):
        load_preset("steaming")


def test_the_command_trains_and_prints_its_result(root, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("ECG_EDGE_CACHE", str(root.parent / "cache"))
    asked = ["train", "--data", str(root), "--preset", "tiny", "--folds", "1", "--out", str(tmp_path / "run")]
    assert main([*asked, "--limit", "16", "--epochs", "1", "--threads", "1", "--json"]) == 0
    result = json.loads(capsys.readouterr().out)
    assert result["epochs"] == 1
    assert 0 <= result["best"]["macro_auc"] <= 1
    kept = load_checkpoint(tmp_path / "run" / BEST_NAME)
    assert kept.facts.training["folds"] == [1]
    assert kept.facts.training["limit"] == 16


def test_a_preset_is_shown_with_its_size(capsys):
    assert main(["presets", "ecg-mamba-seed", "--json"]) == 0
    (described,) = json.loads(capsys.readouterr().out)["presets"]
    assert described["parameters"] == 66_565
    assert main(["presets"]) == 0
    assert "178,789" in capsys.readouterr().out


# More outputs than classes, other kinds of models


def test_extra_outputs_are_cut_off_and_the_first_ones_stay_what_they_were():
    torch.manual_seed(0)
    wide = build_model("mamba", with_outputs(TINY.model, 12)).eval()
    narrow = narrowed("mamba", TINY.model, wide)
    signals = noise(3, 1000, 12)
    expected = record_logits(wide, signals, 1000)[:, :5]
    np.testing.assert_allclose(record_logits(narrow, signals, 1000), expected, atol=1e-6)


def test_statements_weigh_in_the_loss_as_much_as_asked():
    logits, targets = torch.zeros(2, 8), torch.zeros(2, 8)
    logits[:, 5:] = 1.0
    alone = loss_of(logits[:, :5], targets[:, :5], 5, TrainingPreset())
    both = loss_of(logits, targets, 5, TrainingPreset(statements_weight=0.5))
    assert float(both - alone) == pytest.approx(0.5 * np.log1p(np.e), rel=1e-6)


def test_mixed_crops_and_targets_are_mixed_alike():
    crops, targets = noise(4, 10, 12), np.eye(4, 5, dtype=np.float32)
    mixed_crops, mixed_targets = mixed(crops, targets, 1.0, np.random.default_rng(5))
    share = mixed_targets[0, 0]
    assert 0 < share < 1
    np.testing.assert_allclose(mixed_crops[0], share * crops[0] + (1 - share) * crops[3], rtol=1e-6)
    np.testing.assert_allclose(mixed_targets.sum(1), 1.0, rtol=1e-6)
    assert mixed(crops, targets, 0.0, np.random.default_rng(5))[0] is crops


def test_a_windowed_network_reads_a_record_as_the_mean_of_its_half_overlapping_crops():
    torch.manual_seed(0)
    model = build_model("resnet1d-wang", load_preset("resnet1d-wang").model).eval()
    signals = noise(2, 1000, 12)
    with torch.inference_mode():
        crops = [model(torch.from_numpy(signals[:, at : at + 250])).numpy() for at in range(0, 751, 125)]
    np.testing.assert_allclose(record_logits(model, signals, 250), np.mean(crops, axis=0), atol=1e-5)


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_a_windowed_network_trains_and_comes_back_from_its_checkpoint(trainer_in, tmp_path, precision):
    small = msgspec.structs.replace(load_preset("resnet1d-wang"), model=ResnetConfig(channels=8, d_hidden=8))
    recipe = {"epochs": 2, "batch_size": 8, "statements_weight": 0.0, "precision": precision}
    trainer = trainer_in(tmp_path / "run", with_training(small, **recipe))
    trainer.run()
    kept = load_checkpoint(tmp_path / "run" / BEST_NAME)
    assert kept.facts.kind == "resnet1d-wang"
    assert kept.facts.training["computed_in"] == computed_in(precision, "cpu")
    assert kept.facts.training["epochs"] == 2  # the last epoch is kept, whatever the tuning fold says
    assert np.isfinite(trainer.kept_logits(trainer.tune.signals)).all()
    with pytest.raises(BundleError, match="carries no state"):
        kept.streaming_model()


def test_a_training_that_diverges_says_so_and_keeps_what_stands(trainer_in, tmp_path, monkeypatch):
    trainer = trainer_in(tmp_path / "run")
    monkeypatch.setattr(trainer, "_step", lambda batch: float("nan"))

    with pytest.raises(DivergedError, match=r"diverged in epoch 1: .* learning_rate \(it is "):
        trainer.run()

    assert not (tmp_path / "run" / LAST_NAME).exists()


def test_the_front_end_is_fitted_on_the_records_trained_on_and_no_others(data):
    rows, others = data.rows([1]), data.rows([9])
    assert prepared(data, rows, [others], SignalPreset())[0] == fit_signal(data, rows, SignalPreset())


def test_the_weights_that_are_kept_are_those_of_the_best_epoch(trainer_in, tmp_path, monkeypatch):
    figures = iter([0.6, 0.9, 0.7])
    monkeypatch.setattr("trainer.train.macro_auc", lambda labels, logits: next(figures))
    trainer, heads = trainer_in(tmp_path / "run", with_training(TINY, epochs=3, average_decay=0.0)), []
    trainer.run(on_epoch=lambda epoch: heads.append(trainer.model.head.weight.detach().clone()))
    kept = load_checkpoint(tmp_path / "run" / BEST_NAME).model.state_dict()["head.weight"]
    assert [torch.equal(kept, head) for head in heads] == [False, True, False]


def test_every_step_goes_by_the_schedule_and_decays_by_the_recipe(trainer_in, tmp_path):
    trainer, rates = trainer_in(tmp_path / "run", with_training(TINY, epochs=2, weight_decay=0.1)), []
    step = trainer._step
    trainer._step = lambda batch: (step(batch), rates.append(trainer.optimiser.param_groups[0]["lr"]))[0]
    trainer.run()
    assert rates == [learning_rate(k, trainer.steps, trainer.recipe) for k in range(trainer.steps)]
    assert [group["weight_decay"] for group in trainer.optimiser.param_groups] == [0.1, 0.0]


def test_another_model_s_scores_are_not_taken_for_this_one_s(data, tmp_path, monkeypatch):
    monkeypatch.setenv("ECG_EDGE_CACHE", str(tmp_path / "cache"))
    rows = data.rows([9])
    bundles = [random_bundle(tmp_path / str(seed), seed=seed) for seed in (1, 2)]
    assert not np.allclose(*(cached_logits(bundle, data, rows) for bundle in bundles))
