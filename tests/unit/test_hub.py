"""A bundle as a model of the Hugging Face format: the same bits, and a card that a hub reads."""

from __future__ import annotations

import json

import msgspec
import numpy as np
import pytest
import torch
from huggingface_hub import ModelCard

from edge.errors import BundleError
from edge.runtime.base import calibrated
from edge.runtime.bundle import load_bundle
from tests.ecg import millivolts, patient
from tests.folders import contents
from tests.tiny_bundle import tiny_bundle
from tests.windowed_bundles import windowed_bundle
from trainer.checkpoint import model_from_bundle
from trainer.hub import EcgClassifier


@pytest.fixture(scope="module")
def bundles(tmp_path_factory):
    folder = tmp_path_factory.mktemp("bundles")
    return {"recurrent": tiny_bundle(folder / "tiny"), "windowed": windowed_bundle(folder / "resnet")}


@pytest.fixture(scope="module")
def shared(bundles, tmp_path_factory):
    """The recurrent bundle in the Hugging Face format."""
    folder = tmp_path_factory.mktemp("shared")
    EcgClassifier.of_bundle(bundles["recurrent"]).save_pretrained(folder)
    return folder


def test_a_folder_has_what_the_hub_expects(shared):
    assert {"config.json", "model.safetensors", "README.md", "model.onnx"} <= set(contents(shared))
    assert json.loads((shared / "config.json").read_text())["model_type"] == "ecg-edge"


@pytest.mark.parametrize("kind", ["recurrent", "windowed"])
def test_from_pretrained_gives_the_model_back_to_the_last_bit(bundles, tmp_path, kind):
    bundle = bundles[kind]
    EcgClassifier.of_bundle(bundle).save_pretrained(tmp_path / "hub")
    x = torch.randn(2, 1000, 12, generator=torch.Generator().manual_seed(1))

    back = EcgClassifier.from_pretrained(str(tmp_path / "hub"))

    with torch.inference_mode():
        ours, theirs = model_from_bundle(bundle)(x), back(x)
    assert torch.equal(ours if kind == "windowed" else ours[0], theirs if kind == "windowed" else theirs[0])
    assert back.manifest == bundle.manifest
    assert not back.training


def test_a_streaming_model_goes_on_from_the_state_it_gave(shared):
    model, x = EcgClassifier.from_pretrained(str(shared)), torch.randn(1, 200, 12)

    with torch.inference_mode():
        _, state = model(x[:, :100])
        logits, _ = model(x[:, 100:], state)
        cold, _ = model(x[:, 100:])

    assert not torch.equal(logits, cold)


@pytest.mark.parametrize("kind", ["recurrent", "windowed"])
def test_millivolts_become_calibrated_probabilities(bundles, kind):
    scaled = msgspec.structs.replace(bundles[kind].manifest.calibration, scale=[2.0] * 5, bias=[0.5] * 5)
    manifest = msgspec.structs.replace(bundles[kind].manifest, calibration=scaled)
    records = np.stack([millivolts(patient(10, 100, seed)) for seed in range(2)])
    plain = EcgClassifier.of_bundle(bundles[kind]).probabilities(records)

    tuned = EcgClassifier(type(bundles[kind])(bundles[kind].path, manifest), model_from_bundle(bundles[kind]))

    logits = np.log(plain / (1 - plain))
    np.testing.assert_allclose(tuned.probabilities(records), calibrated(scaled, logits), atol=1e-6)


def test_what_was_loaded_can_be_saved_again(shared, tmp_path):
    EcgClassifier.from_pretrained(str(shared)).save_pretrained(tmp_path / "again")

    assert contents(tmp_path / "again") == contents(shared)


def test_the_card_says_licence_library_data_and_figures(tmp_path):
    EcgClassifier.of_bundle(load_bundle()).save_pretrained(tmp_path, model_card_kwargs={"licence": "cc-by-4.0"})

    card = ModelCard.load(tmp_path / "README.md")

    assert card.data.license == "cc-by-4.0"
    assert card.data.library_name == "ecg-edge"
    assert card.data.datasets == ["ptb-xl"]
    assert {"ecg", "mamba", "streaming"} <= set(card.data.tags)
    figures = {result.metric_type: result.metric_value for result in card.data.eval_results}
    assert figures["roc_auc"] == pytest.approx(load_bundle().manifest.metrics["macro_auc"], abs=1e-4)
    assert card.data.eval_results[0].dataset_split == "fold 9"
    assert "Not a medical device" in card.text
    assert "EcgClassifier.from_pretrained" in card.text


def test_a_bundle_without_figures_gets_a_card_without_figures(shared):
    card = ModelCard.load(shared / "README.md")

    assert card.data.eval_results is None
    assert card.text.strip().startswith("# tiny 0.1")


def test_weights_that_were_trained_on_are_not_saved_under_the_old_figures(shared, tmp_path):
    model = EcgClassifier.from_pretrained(str(shared))
    with torch.no_grad():
        next(model.parameters()).add_(1.0)

    with pytest.raises(BundleError, match="the weights have changed"):
        model.save_pretrained(tmp_path / "changed")
