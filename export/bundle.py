"""Writes a model bundle: the graph, the weights, and a manifest that names their hashes."""

from __future__ import annotations

import shutil
from dataclasses import asdict
from pathlib import Path

import onnx
from safetensors.torch import save_file

from edge import RESEARCH_USE_ONLY
from edge.errors import BundleError
from edge.runtime.bundle import Bundle, load_bundle, sha256_of, write_manifest
from edge.runtime.manifest import ONNX_NAME, WEIGHTS_NAME, Calibration, Manifest, OperatingPoint, StateTensor
from export.graph import recurrent_graph
from trainer.checkpoint import Checkpoint
from trainer.model import ModelConfig, state_layout

UNTUNED = OperatingPoint(f1_threshold=0.5, on=0.5, off=0.4, dwell_s=3.0)
"""Until `ecg-trainer tune` has seen the model."""


def write_bundle(checkpoint: Checkpoint, out: Path, name: str, version: str) -> Bundle:
    """Export a checkpoint into a bundle directory, replacing the bundle that stands there; return it, checked.

    Raises BundleError when OUT holds something that is not a bundle.
    """
    if out.exists() and not (out / "manifest.json").is_file():
        raise BundleError(out, "the folder exists and is no bundle; choose another --out")
    partial = out.with_name(f".{out.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    onnx.save(recurrent_graph(checkpoint.model), partial / ONNX_NAME)
    save_file({name: t.contiguous() for name, t in checkpoint.model.state_dict().items()}, partial / WEIGHTS_NAME)
    hashes = {file: sha256_of(partial, file) for file in (ONNX_NAME, WEIGHTS_NAME)}
    write_manifest(partial, manifest_of(checkpoint, name, version, hashes))
    load_bundle(partial)
    shutil.rmtree(out, ignore_errors=True)
    partial.rename(out)
    return load_bundle(out)


def manifest_of(checkpoint: Checkpoint, name: str, version: str, hashes: dict[str, str]) -> Manifest:
    """Describe a checkpoint as a bundle, with neither calibration nor tuned thresholds yet."""
    facts, config = checkpoint.facts, checkpoint.config
    return Manifest(
        name=name,
        version=version,
        notice=RESEARCH_USE_ONLY,
        classes=facts.classes,
        leads=facts.leads,
        signal=facts.signal,
        stride=config.stride,
        window_s=config.window_samples / facts.signal.rate_hz,
        hop_s=config.hop_samples / facts.signal.rate_hz,
        state=state_tensors(config),
        calibration=Calibration(scale=[1.0] * len(facts.classes), bias=[0.0] * len(facts.classes)),
        operating_points=dict.fromkeys(facts.classes, UNTUNED),
        training={**facts.training, "preset": facts.preset},
        model=asdict(config),
        files=hashes,
    )


def state_tensors(config: ModelConfig) -> list[StateTensor]:
    """Return the carried tensors in the graph's order."""
    return [StateTensor(name, list(shape), init) for name, (shape, init) in state_layout(config).items()]
