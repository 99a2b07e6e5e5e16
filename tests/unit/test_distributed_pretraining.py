"""Several processes pre-train as one does: what a method compares, it compares over the whole batch."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from tests.tiny_ptbxl import rows_of, write_ptbxl
from tests.watched_pretraining import RUNS, two_plain_layers, watched
from trainer.batches import Batch
from trainer.cli import main
from trainer.distributed import Workers, WorkersError
from trainer.pretraining import byol, simclr
from trainer.run_folder import BEST_NAME, HISTORY_NAME, LAST_NAME

PAIR = [Workers(rank=rank, count=2) for rank in range(2)]

pytestmark = pytest.mark.usefixtures("one_thread")


def two_processes(*words, cache="unused"):
    """Run a module in two processes; returns how it ended."""
    start = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m"]
    surroundings = {"PYTHONPATH": str(Path(__file__).parents[2]), "ECG_EDGE_CACHE": str(cache), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [*start, *map(str, words)], env={**os.environ, **surroundings},
        capture_output=True, text=True, check=False, timeout=600,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done


@pytest.fixture(scope="module")
def pair(tmp_path_factory):
    """Where two processes have pre-trained by every method."""
    out = tmp_path_factory.mktemp("pair")
    two_processes("tests.watched_pretraining", out)
    return out


@pytest.mark.parametrize("name", RUNS)
def test_two_processes_take_the_gradients_of_one(pair, name, tmp_path, monkeypatch):
    for module in (simclr, byol):
        monkeypatch.setattr(module, "two_layers", two_plain_layers)
    alone = watched(name, tmp_path, Workers())
    alone.run()
    together = torch.load(pair / name / "gradients.pt", weights_only=True)
    assert len(together) == len(alone.steps) >= 3
    for number, (step, pair_step) in enumerate(zip(alone.steps, together, strict=True)):
        assert step.keys() == pair_step.keys()
        largest = max(gradient.abs().max() for gradient in step.values())
        assert largest > 1e-3
        for key, gradient in step.items():
            where = f"step {number}, {key}"
            torch.testing.assert_close(pair_step[key], gradient, atol=1e-3 * float(largest), rtol=1e-3, msg=where)
    for mine, line in zip(alone.history, (pair / name / HISTORY_NAME).read_text().splitlines(), strict=True):
        assert json.loads(line)["loss"] == pytest.approx(mine.loss, rel=1e-3)
        assert json.loads(line)["score"] == pytest.approx(mine.score, abs=0.02)


def test_one_process_goes_on_from_what_two_left_behind(pair, tmp_path):
    alone = watched("cpc", tmp_path, Workers())
    alone.run()
    states = [torch.load(folder / "cpc" / LAST_NAME, weights_only=True)["method"] for folder in (tmp_path, pair)]
    torch.testing.assert_close(states[1]["left_behind"], states[0]["left_behind"], atol=1e-3, rtol=1e-2)
    done = watched("cpc", pair, Workers()).run()
    assert done.epoch == RUNS["cpc"][1].epochs


def test_the_command_speaks_with_one_voice(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("ECG_EDGE_CACHE", str(tmp_path / "cache"))
    root = write_ptbxl(tmp_path / "ptb-xl", rows_of(["NORM", "IMI", "SR"] * 3, [1, 9]))
    preset = tmp_path / "mine.toml"
    preset.write_text(
        "[model]\nd_model = 16\nn_layers = 1\nd_state = 8\n[training]\n[pretraining.cpc]\nbatch_size = 5\n"
    )
    words = ["pretrain", "--data", str(root), "--preset", str(preset), "--folds", "1", "--json", "--epochs", "2"]
    done = two_processes("trainer", *words, "--out", tmp_path / "run", cache=tmp_path / "cache")
    assert done.stderr.count("stage 1, epoch 2") == done.stderr.count("wrote ") == 1
    facts = json.loads((tmp_path / "run" / BEST_NAME / "checkpoint.json").read_text())["training"]
    assert (facts["processes"], facts["device"]) == (2, "cpu")
    assert main([*words, "--out", str(tmp_path / "run")]) == 0
    assert json.loads(capsys.readouterr().out) == json.loads(done.stdout)


def test_a_share_of_several_views_is_the_same_records_of_all():
    rows = torch.arange(10.0)[:, None]  # five records' first views, then their second ones
    shares = [workers.share(Batch(rows, rows, carried=False), views=2) for workers in PAIR]
    assert [share.crops[:, 0].tolist() for share in shares] == [[0, 1, 5, 6], [2, 3, 4, 7, 8, 9]]
    with pytest.raises(WorkersError, match="batch of 1"):
        PAIR[0].share(Batch(rows[:2], rows[:2], carried=False), views=2)


def test_methods_that_normalise_batches_are_refused_on_several_cpus(tmp_path):
    with pytest.raises(WorkersError, match="--threads"):
        watched("byol", tmp_path, PAIR[0])
