"""Copies of the shipped bundle with other operating points, so that alerts are certain."""

from __future__ import annotations

import shutil
from pathlib import Path

import msgspec

from edge.runtime.bundle import Bundle, load_bundle, write_manifest
from edge.runtime.manifest import OperatingPoint

ALWAYS = OperatingPoint(f1_threshold=0.5, on=0.0, off=0.0, dwell_s=0.0)
"""On from the first hop that counts, whatever the probability; never off."""


def alarming_bundle(directory: Path, dwell_s: float = 0.0) -> Bundle:
    """Return a copy of the shipped bundle that raises an alert of every class as soon as a stream is ready."""
    shipped = load_bundle()
    shutil.copytree(shipped.path, directory)
    point = msgspec.structs.replace(ALWAYS, dwell_s=dwell_s)
    points = dict.fromkeys(shipped.manifest.classes, point)
    write_manifest(directory, msgspec.structs.replace(shipped.manifest, operating_points=points))
    return load_bundle(directory)
