"""A trained network as a bundle, for what is measured on a device's path.

The trainer does not import the exporter; it calls it as `make train` does, as a command.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

from edge.cli.output import say
from edge.errors import BundleError, EcgEdgeError
from edge.runtime.bundle import Bundle, load_bundle
from edge.runtime.manifest import WEIGHTS_NAME, Manifest
from trainer.checkpoint import Checkpoint
from trainer.tasks import class_name

VERSION = "0.1.0"
SOURCES = Path(__file__).parents[2]
"""Where the packages of this very trainer lie, the exporter among them."""


class NotExportedError(EcgEdgeError):
    """`ecg-export bundle` did not make a bundle of a checkpoint."""

    def __init__(self, checkpoint: Path, why: str) -> None:
        self.checkpoint, self.why = checkpoint, why
        super().__init__(f"`ecg-export bundle {checkpoint}` made no bundle: {why}")


def bundle_of(checkpoint: Checkpoint, out: Path, name: str) -> Bundle:
    """Return the bundle of a checkpoint in a folder, exported there unless it stands there already.

    Raises NotExportedError when the exporter says no, or when a runtime does not agree with PyTorch.
    """
    try:
        bundle = load_bundle(out)
    except BundleError:
        bundle = None
    if bundle is None or not _is_of(bundle.manifest, checkpoint):
        _export(checkpoint.path, out, name)
    return load_bundle(out)


def _is_of(manifest: Manifest, checkpoint: Checkpoint) -> bool:
    """Whether a manifest is of this checkpoint, and not of a version that knew no softmax."""
    same_weights = manifest.files.get(WEIGHTS_NAME) == checkpoint.facts.weights_sha256
    return same_weights and manifest.calibration.softmax == checkpoint.knows_one_label


def _export(checkpoint: Path, out: Path, name: str) -> None:
    say(f"{name}: exporting its bundle, and comparing the runtimes with PyTorch")
    words = ["bundle", str(checkpoint), "--out", str(out), "--name", class_name(name), "--version", VERSION, "--json"]
    paths = [str(SOURCES), *filter(None, [os.environ.get("PYTHONPATH")])]
    ended = subprocess.run(  # noqa: S603 - this Python, this package
        [sys.executable, "-m", "export", *words], capture_output=True, text=True, check=False,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(paths)},
    )  # fmt: skip
    if ended.returncode != 0:
        raise NotExportedError(checkpoint, _why(ended))


def _why(ended: subprocess.CompletedProcess[str]) -> str:
    """Return in a line what went wrong: runtimes that differ, or the exporter's own error."""
    try:
        runtimes = json.loads(ended.stdout)["parity"]["runtimes"]
    except (ValueError, KeyError):
        return (ended.stderr.strip().splitlines() or [f"it ended with {ended.returncode}"])[-1]
    return "; ".join(f"{each['runtime']} {each['problem']}" for each in runtimes if not each["passed"])
