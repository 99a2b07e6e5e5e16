"""Starting from what another training learned: everything but the head, of the same network only."""

from __future__ import annotations

import msgspec
import pytest
import torch
from safetensors.torch import save_file

from edge.errors import BundleError
from edge.runtime.manifest import SignalSpec
from edge.signal.leads import STANDARD_LEADS
from tests.small_networks import small_config
from tests.tiny_bundle import tiny_manifest
from trainer.checkpoint import save_checkpoint
from trainer.kinds import build_model
from trainer.preset import load_preset
from trainer.report import fold_notes
from trainer.transfer import TransferError, body, facts_of_start, start_from

SIGNAL = SignalSpec(
    rate_hz=100, band_hz=(0.05, 40.0), sos=[(1.0, 0.0, 0.0, 1.0, 0.0, 0.0)], mean_mv=[0.0] * 12, std_mv=[0.2] * 12
)


def saved(path, kind, model, training=None):
    save_checkpoint(path, model, {"name": "first"}, SIGNAL, ["A"], list(STANDARD_LEADS), training or {}, kind)
    return path


def of_kind(kind, seed, **changes):
    torch.manual_seed(seed)
    config = load_preset("tiny").model if kind == "mamba" else small_config(kind, **changes)
    return build_model(kind, config)


@pytest.mark.parametrize("kind", ["mamba", "resnet1d-wang", "hubert-ecg"])
def test_everything_but_the_head_is_taken(kind, tmp_path):
    first, second = of_kind(kind, 0), of_kind(kind, 1)
    head = second.head.weight.clone()
    start_from(second, saved(tmp_path / "first", kind, first))
    taken = body(second)
    assert all(torch.equal(taken[name], tensor) for name, tensor in body(first).items())
    assert torch.equal(second.head.weight, head)
    assert facts_of_start(tmp_path / "first")["name"] == "first"
    assert facts_of_start(tmp_path / "first")["folds"] == []


def test_another_number_of_classes_is_no_obstacle(tmp_path):
    first, second = of_kind("resnet1d-wang", 0), of_kind("resnet1d-wang", 1, n_classes=1)
    start_from(second, saved(tmp_path / "first", "resnet1d-wang", first))
    assert torch.equal(body(second)["stem.0.weight"], body(first)["stem.0.weight"])


@pytest.mark.parametrize("changes", [{"channels": 32}, {"layout": "print_3x4"}, {"strides": (1, 2)}])
def test_another_network_is_refused_by_a_weight_that_differs(tmp_path, changes):
    path = saved(tmp_path / "first", "resnet1d-wang", of_kind("resnet1d-wang", 0))
    second = of_kind("resnet1d-wang", 1, **changes)
    before = {name: tensor.clone() for name, tensor in body(second).items()}
    with pytest.raises(TransferError, match=r"another network: .* such as "):
        start_from(second, path)
    assert all(torch.equal(before[name], tensor) for name, tensor in body(second).items())


def test_what_a_start_has_seen_goes_with_it_and_makes_figures_flatter(tmp_path):
    training = {"folds": [1, 2], "tune_folds": [9], "init": {"name": "older", "sha256": "0", "folds": [3]}}
    path = saved(tmp_path / "first", "mamba", of_kind("mamba", 0), training)

    start = facts_of_start(path)

    assert start["folds"] == [1, 2, 3, 9]
    manifest = msgspec.structs.replace(tiny_manifest(), training={"folds": [4], "init": start})
    (note,) = fold_notes(manifest, [9])
    assert "fold 9 was seen by the training it started from" in note


def test_a_folder_without_a_checkpoint_is_refused(tmp_path):
    with pytest.raises(BundleError, match="no checkpoint"):
        start_from(of_kind("resnet1d-wang", 0), tmp_path)


def test_a_public_file_is_for_hubert_alone(tmp_path):
    other, network = of_kind("hubert-ecg", 0), of_kind("hubert-ecg", 1)
    path = tmp_path / "model.safetensors"
    save_file({name: tensor.contiguous() for name, tensor in other.hubert.state_dict().items()}, path)
    start_from(network, path)
    assert all(torch.equal(body(network)[name], tensor) for name, tensor in body(other).items())
    with pytest.raises(TransferError, match="only a hubert-ecg"):
        start_from(of_kind("resnet1d-wang", 0), path)
    assert len(facts_of_start(path)["sha256"]) == 64
