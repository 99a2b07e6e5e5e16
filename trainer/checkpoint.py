"""Checkpoints: weights as safetensors and everything needed to use them as JSON; no pickle."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import msgspec
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import nn

from edge.errors import BundleError
from edge.runtime.bundle import Bundle
from edge.runtime.manifest import WEIGHTS_NAME, WINDOWED, SignalSpec
from trainer.batches import whole_frames
from trainer.kinds import MAMBA, build_model, describe_config, model_config
from trainer.model import EcgMamba
from trainer.networks.windowed import Windowed

CHECKPOINT_NAME = "checkpoint.json"


class CheckpointFacts(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What stands in checkpoint.json."""

    model: dict[str, Any]
    preset: dict[str, Any]
    signal: SignalSpec
    classes: list[str]
    leads: list[str]
    training: dict[str, Any]
    weights_sha256: str
    kind: str = MAMBA


@dataclass(frozen=True)
class Checkpoint:
    """A trained model in evaluation mode and what is known of it."""

    model: nn.Module
    facts: CheckpointFacts

    path: Path

    @property
    def knows_one_label(self) -> bool:
        """Whether it was trained for exactly one label a record: its outputs are then a softmax's."""
        return bool(self.facts.preset.get("training", {}).get("loss") == "cross_entropy")

    def streaming_model(self) -> EcgMamba:
        """Return the model if it is one that carries state; raises BundleError otherwise."""
        if not isinstance(self.model, EcgMamba):
            raise BundleError(self.path, f"a {self.facts.kind} carries no state: it cannot become a recurrent bundle")
        return self.model

    def windowed_model(self) -> Windowed:
        """Return the model as it is evaluated, over crops as long as those it was trained on.

        Raises BundleError when its preset does not say how long that is.
        """
        crop_s = self.facts.preset.get("training", {}).get("crop_s")
        if crop_s is None:
            raise BundleError(self.path, "the checkpoint's preset does not say how long its crops are")
        return Windowed(self.model, whole_frames(crop_s, self.facts.signal.rate_hz, 1))


class WindowedModel(msgspec.Struct, frozen=True):
    """What a windowed bundle's manifest says of its model besides the configuration of its network."""

    kind: str
    crop_samples: Annotated[int, msgspec.Meta(ge=1)]


def save_checkpoint(
    path: Path, model: nn.Module, preset: dict[str, Any], signal: SignalSpec, classes: list[str], leads: list[str],
    training: dict[str, Any], kind: str = MAMBA,
) -> None:  # fmt: skip
    """Write a checkpoint directory; the JSON comes last and names the weights' hash, so a torn write is noticed."""
    path.mkdir(parents=True, exist_ok=True)
    partial = path / f"{WEIGHTS_NAME}.partial"
    save_file({name: tensor.contiguous() for name, tensor in model.state_dict().items()}, partial)
    digest = hashlib.sha256(partial.read_bytes()).hexdigest()
    partial.replace(path / WEIGHTS_NAME)
    config = describe_config(model.config)
    facts = CheckpointFacts(config, preset, signal, classes, leads, training, digest, kind)
    encoded = msgspec.json.format(msgspec.json.encode(facts), indent=2)
    partial = path / f"{CHECKPOINT_NAME}.partial"
    partial.write_bytes(encoded + b"\n")
    partial.replace(path / CHECKPOINT_NAME)


def load_checkpoint(path: Path) -> Checkpoint:
    """Read a checkpoint directory; raises BundleError when it is incomplete or damaged."""
    try:
        facts = msgspec.json.decode((path / CHECKPOINT_NAME).read_bytes(), type=CheckpointFacts)
        digest = hashlib.sha256((path / WEIGHTS_NAME).read_bytes()).hexdigest()
    except OSError as error:
        raise BundleError(path, f"no checkpoint can be read here: {error.strerror}") from None
    except msgspec.MsgspecError as error:
        raise BundleError(path, f"{CHECKPOINT_NAME} cannot be read: {error}") from None
    if digest != facts.weights_sha256:
        raise BundleError(path, f"{WEIGHTS_NAME} does not have the SHA-256 that {CHECKPOINT_NAME} states")
    return Checkpoint(_model(path, facts.kind, facts.model, path / WEIGHTS_NAME), facts, path)


def model_from_bundle(bundle: Bundle) -> EcgMamba | Windowed:
    """Build the PyTorch model of a bundle, in evaluation mode: of a windowed one as it is evaluated, over crops.

    Raises BundleError when the manifest does not describe a model of the trainer's, when the bundle has no weights
    beside its graph, or when they do not fit.
    """
    if WEIGHTS_NAME not in bundle.manifest.files:
        raise BundleError(bundle.path, f"has no {WEIGHTS_NAME}: a graph alone runs, but is no model of PyTorch's")
    table = dict(bundle.manifest.model)
    if bundle.manifest.kind != WINDOWED:
        model = _model(bundle.path, MAMBA, table, bundle.weights_path)
        assert isinstance(model, EcgMamba)
        return model
    try:
        stated = msgspec.convert(table, WindowedModel)
    except msgspec.ValidationError as error:
        raise BundleError(bundle.path, f"the manifest's model is none of the trainer's: {error}") from None
    config = {name: value for name, value in table.items() if name not in WindowedModel.__struct_fields__}
    return Windowed(_model(bundle.path, stated.kind, config, bundle.weights_path), stated.crop_samples).eval()


def _model(path: Path, kind: str, config: dict[str, Any], weights: Path) -> nn.Module:
    try:
        model = build_model(kind, model_config(kind, config))
        model.load_state_dict(load_file(weights))
    except (msgspec.ValidationError, RuntimeError, SafetensorError) as error:
        raise BundleError(path, f"the weights do not fit the stated model: {error}") from None
    return model.eval()
