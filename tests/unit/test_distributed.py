"""Several processes train one model as one process does: the same gradients, one voice, one folder."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from edge.errors import EcgEdgeError
from tests.small_networks import ecg, small_config, small_network
from tests.tiny_ptbxl import rows_of, write_ptbxl
from tests.watched_training import GRADIENTS_NAME, Watched
from trainer import scan, train_command
from trainer.batches import Batch
from trainer.cli import main
from trainer.distributed import Workers, WorkersError
from trainer.kinds import build_model
from trainer.model import EcgMamba
from trainer.objective import loss_of, parameter_groups, positive_weights, training_logits
from trainer.preset import TrainingPreset, load_preset
from trainer.run_folder import BEST_NAME, HISTORY_NAME, LAST_NAME

RECIPE = {"batch_size": 7, "epochs": 2, "crop_s": 2.5, "carried_share": 0.5, "gain_jitter": 0.1, "average_decay": 0.9}
"""Batches that two cannot share evenly, some of which go on from the state that the one before left behind."""
TINY = load_preset("tiny")
PAIR = [Workers(rank=rank, count=2) for rank in range(2)]


pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    folder = tmp_path_factory.mktemp("ptbxl")
    write_ptbxl(folder / "ptb-xl", rows_of(["NORM", "IMI", "NDT", "LAFB", "LVH"] * 3, [1, 9]))
    return folder / "ptb-xl"


@pytest.fixture
def train(root, tmp_path, monkeypatch, capsys):
    """Trains by the command, in this process, and returns its result."""
    monkeypatch.setenv("ECG_EDGE_CACHE", str(root.parent / "cache"))
    monkeypatch.setattr(train_command, "Trainer", Watched)

    def run(out, recipe=RECIPE):
        assert main(command(root, tmp_path / "mine.toml", out, recipe)) == 0
        return json.loads(capsys.readouterr().out)

    return run


@pytest.fixture(scope="module")
def pair(root, tmp_path_factory):
    """What two processes leave and say that train by the command."""
    folder = tmp_path_factory.mktemp("pair")
    start = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    words = ["-m", "tests.watched_training", *command(root, folder / "mine.toml", folder / "run", RECIPE)]
    surroundings = {"PYTHONPATH": str(Path(__file__).parents[2]), "ECG_EDGE_CACHE": str(root.parent / "cache")}
    done = subprocess.run(
        [*start, *words], env={**os.environ, "OMP_NUM_THREADS": "1", **surroundings},
        capture_output=True, text=True, check=False, timeout=600,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return SimpleNamespace(out=folder / "run", said=done.stderr, result=json.loads(done.stdout))


def command(root, preset, out, recipe):
    """Train a small Mamba by a recipe."""
    model = f"[model]\n{lines_of({'d_model': 16, 'n_layers': 1, 'd_state': 8, 'dropout': 0.0})}"
    preset.write_text(f"{model}[training]\n{lines_of(recipe)}")
    words = ["train", "--data", str(root), "--preset", str(preset), "--folds", "1", "--out", str(out)]
    return [*words, "--threads", "1", "--json"]


def lines_of(table):
    return "".join(f"{name} = {json.dumps(value)}\n" for name, value in table.items())


def test_two_processes_take_the_gradients_of_one(pair, train, tmp_path):
    result = train(tmp_path)
    expected, found = (torch.load(folder / GRADIENTS_NAME, weights_only=True) for folder in (tmp_path, pair.out))
    assert len(expected) == len(found) == 4
    for step, pair_step in zip(expected, found, strict=True):
        for name, gradient in step.items():
            torch.testing.assert_close(pair_step[name], gradient, atol=1e-5, rtol=1e-3, msg=name)
    assert pair.result["best"]["loss"] == pytest.approx(result["best"]["loss"], abs=1e-5)
    states = [torch.load(folder / LAST_NAME, weights_only=True)["left_behind"] for folder in (tmp_path, pair.out)]
    assert states[0].keys() == states[1].keys()
    torch.testing.assert_close(states[1], states[0], atol=1e-4, rtol=1e-3)


def test_two_processes_speak_with_one_voice_and_one_goes_on_from_what_they_left(pair, train):
    assert pair.said.count("best: epoch") == pair.said.count("filtering the records") == 1
    assert "2 processes" in pair.said
    facts = json.loads((pair.out / BEST_NAME / "checkpoint.json").read_text())["training"]
    assert (facts["processes"], facts["device"]) == (2, "cpu")
    assert len((pair.out / HISTORY_NAME).read_text().splitlines()) == RECIPE["epochs"]
    assert train(pair.out) == pair.result


def test_shares_are_the_batch_cut_up_and_count_by_their_size():
    batch = Batch(ecg(7, 20), torch.arange(7.0)[:, None], carried=True)
    shares = [workers.share(batch) for workers in PAIR]
    assert torch.equal(torch.cat([share.crops for share in shares]), batch.crops)
    assert all(share.carried for share in shares)
    means = [workers.weight(batch) * share.targets.mean() for workers, share in zip(PAIR, shares, strict=True)]
    torch.testing.assert_close(sum(means) / 2, batch.targets.mean())


def test_a_batch_that_is_too_small_for_all_is_refused():
    with pytest.raises(WorkersError, match="batch of 1"):
        PAIR[0].share(Batch(ecg(1, 20), torch.zeros(1, 5), carried=False))


def test_batch_normalisation_over_shares_is_refused_on_a_cpu_and_left_alone_in_one_process():
    network = small_network("resnet1d-wang")
    assert Workers().placed(network) is network
    with pytest.raises(EcgEdgeError, match="--threads"):
        PAIR[1].placed(network)
    mamba = EcgMamba(TINY.model)
    assert PAIR[1].placed(mamba) is mamba


def test_dropout_differs_between_processes_and_is_the_same_when_an_epoch_is_run_again():
    def drawn(workers, epoch):
        workers.reseed(3, epoch)
        return torch.rand(4)

    with torch.random.fork_rng():
        first, again, next_epoch = (drawn(PAIR[1], epoch) for epoch in (1, 1, 2))
        assert torch.equal(first, again)
        assert not torch.equal(first, next_epoch)
        before = torch.get_rng_state()
        PAIR[0].reseed(3, 1)
        assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("seed", [2**23, 2**24, 2**32 - 1])
def test_any_seed_gives_every_process_and_epoch_dropout_of_its_own(seed):
    with torch.random.fork_rng():
        drawn = []
        for rank, epoch in ((1, 0), (1, 1), (2, 0), (2, 1)):
            Workers(rank=rank, count=3).reseed(seed, epoch)
            drawn.append(tuple(torch.rand(4).tolist()))
        assert len(set(drawn)) == len(drawn)


def test_in_mixed_precision_a_mamba_still_scans_in_float32(monkeypatch):
    seen = []

    def watched(u, A):
        return lambda *tensors: seen.append(tensors) or scan.scan_reference(*tensors)

    monkeypatch.setattr(scan, "_choose", watched)
    torch.manual_seed(0)
    model, x = EcgMamba(TINY.model).eval(), ecg(4, 248)
    exact = model(x)[0]
    with torch.autocast("cpu", torch.bfloat16):
        mixed, state = model(x)
    assert mixed.dtype == torch.bfloat16
    assert state["ssm_0"].dtype == torch.float32
    assert all(tensor.dtype == torch.float32 for tensors in seen for tensor in tensors)
    torch.testing.assert_close(mixed.float(), exact, atol=0.03, rtol=0.03)


def test_a_mamba_learns_in_mixed_precision_from_a_carried_state(train, tmp_path):
    recipe = {"precision": "bfloat16", "epochs": 8, "learning_rate": 1e-2, "carried_share": 0.9, "patience_epochs": 8}
    train(tmp_path, {**RECIPE, **recipe})
    losses = [json.loads(line)["loss"] for line in (tmp_path / HISTORY_NAME).read_text().splitlines()]
    assert losses[-1] < 0.9 * losses[0]


@pytest.mark.parametrize("kind", ["mamba", "resnet1d-wang", "hubert-ecg"])
def test_a_step_happens_on_the_device_of_its_process_alone(kind, monkeypatch):
    """On PyTorch's device without memory, which refuses to meet another: what would fail on a GPU fails here."""
    monkeypatch.setattr(torch, "is_autocast_enabled", lambda device_type: False)  # it does not know this device
    workers = Workers(torch.device("meta"))
    config = TINY.model if kind == "mamba" else small_config(kind)
    model = workers.placed(build_model(kind, config))
    share = workers.share(Batch(ecg(4, 500), torch.rand(4, 5), carried=True))
    recipe = TrainingPreset(positive_weight="balanced", focal_gamma=2.0)
    weight = positive_weights(np.eye(5, dtype=np.float32), recipe, workers.device)
    logits, left_behind = training_logits(model, share, {})
    loss_of(training_logits(model, share, left_behind)[0], share.targets, 5, recipe, weight).backward()
    torch.optim.AdamW(parameter_groups(model, 0.1)).step()
    assert logits.device == workers.device
    assert any(parameter.grad is not None for parameter in model.parameters())
