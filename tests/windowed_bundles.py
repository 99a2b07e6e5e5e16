"""Windowed bundles of small networks: random ones of every kind, and one that the trainer trains for a moment."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import msgspec

from edge.runtime.bundle import Bundle
from export.bundle import write_bundle
from tests.small_networks import small_network
from tests.tiny_bundle import tiny_checkpoint
from tests.tiny_ptbxl import rows_of, write_ptbxl
from trainer.checkpoint import Checkpoint, load_checkpoint
from trainer.cli import main as trainer
from trainer.ptbxl import CLASSES

CODES = ["NORM", "IMI", "NDT", "LAFB", "LVH"]

PRESET = """
[model]
kind = "resnet1d-wang"
channels = 8

[training]
epochs = 2
batch_size = 8
crop_s = 2.5
average_decay = 0.0
"""


Table = dict[str, object]


def windowed_checkpoint(
    kind: str, training: Table | None = None, signal: Table | None = None, task: Table | None = None,
    classes: Sequence[str] = CLASSES,
) -> Checkpoint:  # fmt: skip
    """A small network of a kind with random weights, and the tables of the preset it says it was trained with."""
    crop_s = 10.0 if kind == "cardionet-xl" else 2.5
    preset = {"training": {"crop_s": crop_s, **(training or {})}, "signal": signal or {}, "task": task or {}}
    facts = msgspec.structs.replace(tiny_checkpoint(classes).facts, kind=kind, preset=preset)
    return Checkpoint(small_network(kind, n_classes=len(classes)), facts, Path(kind))


def windowed_bundle(path: Path, kind: str = "resnet1d-wang") -> Bundle:
    """Write a bundle of such a network."""
    return write_bundle(windowed_checkpoint(kind), path, kind, "0.1")


def trained_checkpoint(folder: Path) -> tuple[Checkpoint, Path]:
    """Train a small residual network on a PTB-XL root in miniature; return what is kept of it, and that root."""
    root = write_ptbxl(folder / "ptb-xl", rows_of(CODES * 4, [8, 9]))
    (folder / "small.toml").write_text(PRESET)
    words = ["--data", root, "--preset", folder / "small.toml", "--folds", "8", "--out", folder / "run"]
    assert trainer(["train", *map(str, words)]) == 0
    return load_checkpoint(folder / "run" / "best"), root
