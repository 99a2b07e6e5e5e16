"""Checkpoints: weights as safetensors and everything needed to use them as JSON; no pickle."""

from __future__ import annotations

import hashlib
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import msgspec
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from edge.errors import BundleError
from edge.runtime.bundle import Bundle
from edge.runtime.manifest import WEIGHTS_NAME, SignalSpec
from trainer.model import EcgMamba, ModelConfig

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


@dataclass(frozen=True)
class Checkpoint:
    """A trained model in evaluation mode and what is known of it."""

    model: EcgMamba
    facts: CheckpointFacts

    @property
    def config(self) -> ModelConfig:
        """The model's shape."""
        return self.model.config


def save_checkpoint(
    path: Path, model: EcgMamba, preset: dict[str, Any], signal: SignalSpec, classes: list[str], leads: list[str],
    training: dict[str, Any],
) -> None:  # fmt: skip
    """Write a checkpoint directory; the JSON comes last and names the weights' hash, so a torn write is noticed."""
    path.mkdir(parents=True, exist_ok=True)
    partial = path / f"{WEIGHTS_NAME}.partial"
    save_file({name: tensor.contiguous() for name, tensor in model.state_dict().items()}, partial)
    digest = hashlib.sha256(partial.read_bytes()).hexdigest()
    partial.replace(path / WEIGHTS_NAME)
    facts = CheckpointFacts(asdict(model.config), preset, signal, classes, leads, training, digest)
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
    return Checkpoint(_model(path, facts.model, path / WEIGHTS_NAME), facts)


def model_from_bundle(bundle: Bundle) -> EcgMamba:
    """Build the PyTorch model of a bundle, in evaluation mode."""
    return _model(bundle.path, bundle.manifest.model, bundle.weights_path)


def _model(path: Path, config: dict[str, Any], weights: Path) -> EcgMamba:
    try:
        model = EcgMamba(msgspec.convert(config, ModelConfig))
        model.load_state_dict(load_file(weights))
    except (msgspec.ValidationError, RuntimeError, SafetensorError) as error:
        raise BundleError(path, f"the weights do not fit the stated model: {error}") from None
    return model.eval()
