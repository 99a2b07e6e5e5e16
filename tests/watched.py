"""Copies of bundles with a state monitor measured on schematic patients, and states that no signal explains."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np

from edge.monitor.engine import ModelStream, score_hops
from edge.monitor.offline import hops_of
from edge.runtime.base import Runtime, State, root_mean_square
from edge.runtime.bundle import Bundle, load_bundle, write_manifest
from edge.runtime.manifest import StateMonitor
from edge.runtime.select import open_runtime
from edge.signal.leads import STANDARD_LEADS
from tests.ecg import millivolts, patient
from trainer.state_monitor import range_of, watched_manifest, watched_tensors

SECONDS = 20
SEEDS = range(4)


def watched_bundle(directory: Path, bundle: Bundle | None = None) -> Bundle:
    """Return a copy of a bundle, by default the shipped one, that is watched by what schematic patients do to it."""
    bundle = bundle or load_bundle()
    shutil.copytree(bundle.path, directory)
    write_manifest(directory, watched_manifest(bundle.manifest, schematic_monitor(bundle)))
    return load_bundle(directory)


def schematic_monitor(bundle: Bundle) -> StateMonitor:
    """Return the ranges of the states of a bundle's model on schematic patients."""
    unwatched = Bundle(bundle.path, watched_manifest(bundle.manifest, None))
    runtime, names = open_runtime(unwatched), watched_tensors(bundle)
    sizes = [hop for seed in SEEDS for hop in _sizes(runtime, names, seed)]
    return StateMonitor({name: range_of(np.array(sizes)[:, k]) for k, name in enumerate(names)})


def multiplied(state: State, factor: float, prefix: str = "ssm_") -> State:
    """Return a state whose tensors of this prefix are so many times as large."""
    return {
        name: (tensor * np.float32(factor) if name.startswith(prefix) else tensor) for name, tensor in state.items()
    }


def _sizes(runtime: Runtime, names: list[str], seed: int) -> list[list[float]]:
    manifest = runtime.bundle.manifest
    stream, sizes = ModelStream(runtime.open_slot()), []
    for hop in hops_of(manifest, millivolts(patient(SECONDS, seed=seed)), 100, STANDARD_LEADS):
        score_hops(runtime, [stream], [hop])
        state = runtime.save_slot(stream.slot)
        sizes.append([root_mean_square(state[name]) for name in names])
    runtime.close_slot(stream.slot)
    return sizes
