"""Training on a GPU: the same steps as on the CPU, in mixed precision too, and a run that goes on."""

from __future__ import annotations

import json

import pytest
import torch

from tests.tiny_ptbxl import rows_of, write_ptbxl
from trainer.checkpoint import load_checkpoint
from trainer.cli import main
from trainer.run_folder import BEST_NAME, HISTORY_NAME

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="PyTorch sees no GPU")

MODEL = "[model]\nd_model = 16\nn_layers = 1\nd_state = 8\ndropout = 0.0\n"


@pytest.fixture
def losses(tmp_path, monkeypatch):
    """Trains by the command and returns the loss of each epoch."""
    root = write_ptbxl(tmp_path / "ptb-xl", rows_of(["NORM", "IMI", "NDT", "LAFB", "LVH"] * 3, [1, 9]))
    monkeypatch.setenv("ECG_EDGE_CACHE", str(tmp_path / "cache"))
    preset = tmp_path / "mine.toml"

    def run(out, recipe=""):
        preset.write_text(f"{MODEL}[training]\nbatch_size = 8\nepochs = 8\nlearning_rate = 1e-2\n{recipe}")
        assert main(["train", "--data", str(root), "--preset", str(preset), "--folds", "1", "--out", str(out)]) == 0
        facts = load_checkpoint(out / BEST_NAME).facts.training
        return facts["device"], [json.loads(line)["loss"] for line in (out / HISTORY_NAME).read_text().splitlines()]

    return run


def test_a_gpu_takes_the_steps_of_the_cpu(losses, tmp_path, monkeypatch):
    device, on_gpu = losses(tmp_path / "gpu", "carried_share = 0.5\n")
    assert device == "cuda"
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    device, on_cpu = losses(tmp_path / "cpu", "carried_share = 0.5\n")
    assert device == "cpu"
    assert on_gpu == pytest.approx(on_cpu, rel=1e-2)


def test_mixed_precision_learns_on_a_gpu_and_a_finished_run_is_not_trained_again(losses, tmp_path):
    _, first = losses(tmp_path / "run", 'precision = "bfloat16"\n')
    assert first[-1] < 0.9 * first[0]
    assert losses(tmp_path / "run", 'precision = "bfloat16"\n')[1] == first
