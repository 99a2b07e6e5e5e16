"""A real bundle of a very small model with random weights: its figures mean nothing, its files are what ships."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import msgspec
import torch

from edge.runtime.bundle import Bundle
from edge.runtime.manifest import ONNX_NAME, WEIGHTS_NAME, Manifest, SignalSpec
from edge.signal.leads import STANDARD_LEADS
from export.bundle import manifest_of, write_bundle
from trainer.checkpoint import Checkpoint, CheckpointFacts
from trainer.filters import DEFAULT_BAND_HZ, design_bandpass
from trainer.model import EcgMamba, ModelConfig
from trainer.ptbxl import CLASSES


def tiny_bundle(path: Path, seed: int = 0, vote_hops: int = 0) -> Bundle:
    """Write a bundle of a model that says it was trained on folds 1 to 8."""
    return write_bundle(tiny_checkpoint(seed=seed, vote_hops=vote_hops), path, "tiny", "0.1")


def tiny_manifest(classes: Sequence[str] = CLASSES, **changes: object) -> Manifest:
    """Return such a bundle's manifest alone, with changes, without writing any file."""
    hashes = {ONNX_NAME: "0" * 64, WEIGHTS_NAME: "0" * 64}
    return msgspec.structs.replace(manifest_of(tiny_checkpoint(classes), "tiny", "0.1", hashes), **changes)


def tiny_checkpoint(classes: Sequence[str] = CLASSES, seed: int = 0, vote_hops: int = 0) -> Checkpoint:
    """Return a model of one block with random weights."""
    torch.manual_seed(seed)
    config = ModelConfig(d_model=8, n_layers=1, d_state=4, n_classes=len(classes), vote_hops=vote_hops)
    model = EcgMamba(config).eval()
    sos = [tuple(section) for section in design_bandpass(100).tolist()]
    signal = SignalSpec(100, DEFAULT_BAND_HZ, sos, mean_mv=[0.0] * 12, std_mv=[0.25] * 12)
    training = {"folds": [1, 2, 3, 4, 5, 6, 7, 8]}
    facts = CheckpointFacts({}, {}, signal, list(classes), list(STANDARD_LEADS), training, "0" * 64)
    return Checkpoint(model, facts, Path("tiny"))
