"""Writes a model bundle: the graph, the weights, and a manifest that names their hashes."""

from __future__ import annotations

import shutil
import tempfile
from dataclasses import asdict
from pathlib import Path
from typing import Any

import onnx
from safetensors.torch import save

from edge import RESEARCH_USE_ONLY
from edge.errors import BundleError
from edge.runtime.bundle import Bundle, load_bundle, sha256_of, write_manifest
from edge.runtime.manifest import (
    GRAPHS,
    MANIFEST_NAME,
    ONNX_NAME,
    WEIGHTS_NAME,
    WINDOWED,
    Manifest,
    OperatingPoint,
    StateTensor,
    window_tensor,
)
from export.graph import recurrent_graph
from export.precision import float16_graph
from export.windowed import HOP_S, WINDOW_S, windowed_graph
from trainer.calibration import identity
from trainer.checkpoint import Checkpoint
from trainer.kinds import MAMBA, describe_config
from trainer.model import ModelConfig, state_layout

UNTUNED = OperatingPoint(f1_threshold=0.5, on=0.5, off=0.4, dwell_s=3.0)
"""Until `ecg-trainer tune` has seen the model."""


def write_bundle(checkpoint: Checkpoint, out: Path, name: str, version: str) -> Bundle:
    """Export a checkpoint into a bundle directory, replacing the bundle that stands there; return it, checked.

    The bundle is written beside OUT and moved into place when it is whole. Raises BundleError when OUT holds something
    that is not a bundle or cannot be written, and ExportError when the model has no graph.
    """
    if out.exists() and not (out / MANIFEST_NAME).is_file():
        raise BundleError(out, "the folder exists and is no bundle; choose another --out")
    if checkpoint.facts.preset.get("signal", {}).get("filter") == "zero_phase":
        raise BundleError(checkpoint.path, "a zero-phase filter looks into the future: the model cannot be served")
    graphs = graphs_of(checkpoint)
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=f".{out.name}.", dir=out.parent) as scratch:
            new, old = Path(scratch, "new"), Path(scratch, "old")
            new.mkdir()
            for file, graph in graphs.items():
                (new / file).write_bytes(graph.SerializeToString(deterministic=True))
            (new / WEIGHTS_NAME).write_bytes(
                save({k: v.contiguous() for k, v in checkpoint.model.state_dict().items()})
            )
            write_manifest(new, manifest_of(checkpoint, name, version, _hashes(new)))
            load_bundle(new)
            _replace(out, new, old)
    except OSError as error:
        raise BundleError(out, f"cannot be written: {error.strerror or error}") from None
    return load_bundle(out)


def graphs_of(checkpoint: Checkpoint) -> dict[str, onnx.ModelProto]:
    """Return a bundle's graphs by file name: a windowed one is in float32 alone, for ONNX Runtime."""
    facts = checkpoint.facts
    if facts.kind != MAMBA:
        return {ONNX_NAME: windowed_graph(checkpoint.windowed_model(), len(facts.leads), facts.signal.rate_hz)}
    graph = recurrent_graph(checkpoint.streaming_model())
    return {ONNX_NAME: graph, GRAPHS["fp16"]: float16_graph(graph)}


def manifest_of(checkpoint: Checkpoint, name: str, version: str, hashes: dict[str, str]) -> Manifest:
    """Describe a checkpoint as a bundle, with neither calibration nor tuned thresholds yet."""
    facts = checkpoint.facts
    return Manifest(
        name=name,
        version=version,
        notice=RESEARCH_USE_ONLY,
        classes=facts.classes,
        leads=facts.leads,
        signal=facts.signal,
        **_kind_of(checkpoint),
        calibration=identity(len(facts.classes), checkpoint.knows_one_label),
        operating_points=dict.fromkeys(facts.classes, UNTUNED),
        training={**facts.training, "preset": facts.preset},
        files=hashes,
    )


def state_tensors(config: ModelConfig) -> list[StateTensor]:
    """Return the carried tensors in the graph's order."""
    return [StateTensor(name, list(shape), init) for name, (shape, init) in state_layout(config).items()]


def _kind_of(checkpoint: Checkpoint) -> dict[str, Any]:
    """Return what a manifest says of the model itself, by the kind of bundle it makes."""
    facts, rate_hz = checkpoint.facts, checkpoint.facts.signal.rate_hz
    if facts.kind == MAMBA:
        config = checkpoint.streaming_model().config
        return {
            "stride": config.stride,
            "window_s": config.window_samples / rate_hz,
            "hop_s": config.hop_samples / rate_hz,
            "vote_hops": config.vote_hops,
            "state": state_tensors(config),
            "model": asdict(config),
        }
    network = {"kind": facts.kind, "crop_samples": checkpoint.windowed_model().crop_samples}
    return {
        "kind": WINDOWED,
        "stride": 1,
        "window_s": WINDOW_S,
        "hop_s": HOP_S,
        "state": [window_tensor(round(WINDOW_S * rate_hz), len(facts.leads))],
        "model": network | describe_config(checkpoint.model.config),
    }


def _hashes(folder: Path) -> dict[str, str]:
    return {path.name: sha256_of(folder, path.name) for path in sorted(folder.iterdir())}


def _replace(out: Path, new: Path, old: Path) -> None:
    """Move a finished bundle into place; the one it replaces is moved aside, never half deleted."""
    if out.exists():
        out.rename(old)
    try:
        new.rename(out)
    except OSError:
        if old.exists():
            shutil.move(old, out)
        raise
