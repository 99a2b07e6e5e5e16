"""Pre-training without labels: clusters of frames, stages, and a run that is killed goes on to the same weights."""

from __future__ import annotations

import json

import msgspec
import numpy as np
import pytest
import torch

from edge.errors import ConfigError
from edge.runtime.manifest import SignalSpec
from tests.small_networks import ecg, small_config
from tests.tiny_ptbxl import rows_of, write_ptbxl
from trainer.checkpoint import load_checkpoint
from trainer.cli import main
from trainer.data import Split
from trainer.kinds import build_model
from trainer.preset import Preset, SignalPreset, TrainingPreset, load_preset
from trainer.pretraining.clusters import find_clusters, signal_features
from trainer.pretraining.plans import ByolPlan, MaskedClustersPlan
from trainer.pretraining.run import Pretraining, plan_of
from trainer.run_folder import BEST_NAME, LAST_NAME, RunMismatchError
from trainer.transfer import body

SIGNAL = SignalSpec(
    rate_hz=100, band_hz=(0.05, 40.0), sos=[(1.0, 0.0, 0.0, 1.0, 0.0, 0.0)], mean_mv=[0.0] * 12, std_mv=[0.2] * 12
)
PLAN = MaskedClustersPlan(clusters=(4, 3), epochs=2, layer=1, batch_size=8, learning_rate=2e-3, cluster_records=16)
PRESET = Preset("tiny-hubert", "hubert-ecg", small_config("hubert-ecg", layer_drop=0.0), SignalPreset(),
                TrainingPreset(crop_s=5.0))  # fmt: skip


pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture
def network():
    torch.manual_seed(0)
    return build_model("hubert-ecg", PRESET.model).eval()


def waves(records=16):
    """Records whose second half is faster than the first: frames of several kinds."""
    time_s = np.arange(1000) / 100
    phase = np.cumsum(np.where(time_s < 5, 0.06, 0.6))
    shift = np.random.default_rng(0).uniform(0, 6, (records, 1, 12))
    return np.sin(phase[None, :, None] + shift).astype(np.float32)


def run_in(out, plan=PLAN):
    split = Split(waves(), np.zeros((16, 5), np.float32))
    return Pretraining(PRESET, "masked_clusters", plan, SIGNAL, split, out, 0, {"command": "test"})


def test_features_of_the_signal_are_one_row_per_frame_and_know_its_shape(network):
    crops = ecg(3, 500)
    features = signal_features(network, crops)
    assert features.shape == (3, network.frames(500), 10)
    first = network.flattened(crops)[:, :64]
    torch.testing.assert_close(features[:, 0, 0], first.mean(1))
    torch.testing.assert_close(features[:, 0, 1], first[:, -1] - first[:, 0])
    assert signal_features(network, torch.zeros(1, 500, 12)).isfinite().all()


def test_frames_of_a_kind_are_one_cluster():
    rng = np.random.default_rng(0)
    kinds = np.repeat([0, 1, 2], 50)
    features = (np.array([[0, 0], [900, 0], [0, 5]])[kinds] + rng.normal(0, 0.1, (150, 2))).astype(np.float32)
    found = find_clusters(features, 3, seed=0).of(torch.from_numpy(features)[None])[0].numpy()
    assert len({tuple(set(found[kinds == kind])) for kind in range(3)}) == 3


def test_both_stages_learn_to_guess_and_what_they_learned_starts_a_training(tmp_path):
    plan = msgspec.structs.replace(PLAN, epochs=8)
    run = run_in(tmp_path / "run", plan)
    run.run()
    assert [(epoch.stage, epoch.epoch) for epoch in run.history] == [(s, e) for s in (1, 2) for e in range(1, 9)]
    for stage in (run.history[:8], run.history[8:]):
        assert stage[-1].loss < stage[0].loss
    kept = load_checkpoint(tmp_path / "run" / BEST_NAME)
    assert kept.facts.training["pretraining"]["done"]["stage"] == 2
    assert all(torch.equal(tensor, body(run.network)[name]) for name, tensor in body(kept.model).items())


class Killed(Exception):
    """Stands for a kill: nothing is tidied up after it."""


@pytest.mark.parametrize("epochs_before", [1, 2, 3])
def test_a_killed_run_goes_on_to_the_very_weights_of_an_uninterrupted_one(tmp_path, epochs_before):
    whole = run_in(tmp_path / "whole")
    whole.run()
    seen = []

    def die(epoch):
        seen.append(epoch)
        if len(seen) == epochs_before:
            raise Killed

    with pytest.raises(Killed):
        run_in(tmp_path / "cut").run(on_epoch=die)
    cut = run_in(tmp_path / "cut")
    cut.run()
    assert [epoch.loss for epoch in cut.history] == [epoch.loss for epoch in whole.history]
    assert all(torch.equal(tensor, body(cut.network)[name]) for name, tensor in body(whole.network).items())


def test_a_folder_with_another_run_is_refused(tmp_path):
    run_in(tmp_path).run()
    assert (tmp_path / LAST_NAME).is_file()
    with pytest.raises(RunMismatchError, match="another preset"):
        run_in(tmp_path, msgspec.structs.replace(PLAN, epochs=3)).run()


@pytest.mark.parametrize(
    ("preset", "method", "answer"),
    [
        ("tiny", None, "no \\[pretraining\\].*simclr"),
        ("ssl-encoder", None, "plans for simclr, byol"),
        ("ssl-encoder", "cpc", "for kind mamba"),
        ("tiny", "masked_clusters", "for kind hubert-ecg"),
    ],
)
def test_a_preset_that_does_not_say_how_or_cannot_is_answered(preset, method, answer):
    with pytest.raises(ConfigError, match=answer):
        plan_of(load_preset(preset), method)


def test_a_method_without_a_plan_in_the_preset_has_its_defaults():
    assert plan_of(load_preset("resnet1d-wang"), "byol") == ("byol", ByolPlan())
    assert plan_of(load_preset("hubert-ecg-small"))[0] == "masked_clusters"


def test_the_commands_pre_train_and_fine_tune(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("ECG_EDGE_CACHE", str(tmp_path / "cache"))
    root = str(write_ptbxl(tmp_path / "ptb-xl", rows_of(["NORM", "IMI", "LVH"] * 3, [1, 9])))
    (tmp_path / "mine.toml").write_text(
        '[model]\nkind = "hubert-ecg"\nd_model = 32\nn_layers = 1\nn_heads = 2\nd_conv = 8\n'
        "[pretraining.masked_clusters]\nclusters = [3]\nbatch_size = 4\n"
        "[training]\nepochs = 1\nbatch_size = 4\ncrop_s = 5.0\naverage_decay = 0.0\n"
    )
    common = ["--data", root, "--preset", str(tmp_path / "mine.toml"), "--folds", "1", "--threads", "1", "--json"]
    assert main(["pretrain", *common, "--epochs", "1", "--out", str(tmp_path / "a")]) == 0
    printed = capsys.readouterr()
    assert json.loads(printed.out)["last"]["stage"] == 1
    assert "masked_clusters on 9 records" in " ".join(printed.err.split())
    assert main(["train", *common, "--init", str(tmp_path / "a" / "best"), "--out", str(tmp_path / "b")]) == 0
    assert load_checkpoint(tmp_path / "b" / "best").facts.training["init"]["name"] == "mine"
