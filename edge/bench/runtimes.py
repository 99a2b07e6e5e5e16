"""Every runtime that runs here, side by side: how many streams a core carries, how long a hop takes."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from typing import Any

from edge.bench.effort import RuntimeEffort
from edge.bench.limit import Limit, measure_limit
from edge.bench.timing import Steps, least_seconds, works_on_a_core
from edge.errors import EcgEdgeError
from edge.runtime.base import Runtime
from edge.runtime.bundle import Bundle
from edge.runtime.manifest import Manifest
from edge.runtime.native import NativeRuntime
from edge.runtime.native_build import NAME as NATIVE
from edge.runtime.native_build import runnable_builds
from edge.runtime.select import RUNTIMES


def open_all(bundle: Bundle, every_width: bool = False) -> tuple[dict[str, Runtime], dict[str, str]]:
    """Open a bundle in every runtime, the native one at its narrower widths, too, if asked for.

    Returns those that work by name, the one the daemon would choose first, and why the others do not.
    """
    opened: dict[str, Runtime] = {}
    missing: dict[str, str] = {}
    for name, open_it in RUNTIMES.items():
        try:
            opened[name] = open_it(bundle, 1)
        except EcgEdgeError as error:
            missing[name] = str(error)
    if every_width and NATIVE in opened:
        for width in runnable_builds():
            if opened[NATIVE].name != f"{NATIVE}-{width}":
                opened[f"{NATIVE}-{width}"] = NativeRuntime(bundle, width=width)
    return opened, missing


def whole_strides(manifest: Manifest, asked: int) -> int:
    """Return the samples of the longest step up to `asked`, but one stride at least, that the model can take."""
    return max(1, asked // manifest.stride) * manifest.stride


def step_lengths(manifest: Manifest, asked: tuple[int, ...]) -> list[dict[str, Any]]:
    """Return the steps to measure: the bundle's hop, then the others that were asked for, with what differs in them."""
    hop = manifest.hop_samples
    lengths: list[dict[str, Any]] = [{"asked": hop, "samples": hop, "note": "the bundle's hop"}]
    for wanted in asked:
        samples = whole_strides(manifest, wanted)
        if samples == hop:
            continue
        note = f"a step of the same network; the bundle's window counts hops of {hop} samples"
        if samples != wanted:
            note = f"{wanted} samples are not whole strides of {manifest.stride}; {note}"
        lengths.append({"asked": wanted, "samples": samples, "note": note})
    return lengths


def measure_steps(
    runtimes: dict[str, Runtime], manifest: Manifest, effort: RuntimeEffort, tell: Callable[[str], None]
) -> tuple[dict[str, list[dict[str, Any]]], list[dict[str, Any]]]:
    """Time steps of every runtime at every batch and length; return rows by runtime, and the lengths."""
    lengths = step_lengths(manifest, effort.lengths)
    rows: dict[str, list[dict[str, Any]]] = {name: [] for name in runtimes}
    with ExitStack() as stack:
        steps = {name: stack.enter_context(Steps(r, max(effort.batches))) for name, r in runtimes.items()}
        for length in lengths:
            samples = length["samples"]
            tell(f"runtimes: steps of {samples} samples, {', '.join(runtimes)}")
            for batch in effort.batches:
                taken = least_seconds(effort.seconds, {name: s.of(batch, samples) for name, s in steps.items()})
                for name, step_s in taken.items():
                    rows[name].append(row_of(batch, samples, step_s, manifest.signal.rate_hz))
    return rows, lengths


def row_of(batch: int, samples: int, step_s: float, rate_hz: int) -> dict[str, Any]:
    """Return what a step says: its time, a stream's share of it, and the streams in real time that makes."""
    return {
        "batch": batch,
        "samples": samples,
        "ms": step_s * 1000,
        "ms_per_stream": step_s * 1000 / batch,
        "streams_per_core": samples / rate_hz * batch / step_s,
    }


def summary_of(runtime: Runtime, rows: list[dict[str, Any]]) -> dict[str, Any]:
    """Return a runtime's figures: at its best batch, and for a stream alone."""
    manifest = runtime.bundle.manifest
    hops = [row for row in rows if row["samples"] == manifest.hop_samples]
    best, alone = max(hops, key=_streams), min(hops, key=lambda row: int(row["batch"]))
    return {
        "name": runtime.name,
        "clock": "cpu" if works_on_a_core(runtime) else "wall",
        "streams_per_core": best["streams_per_core"],
        "best_batch": best["batch"],
        "ms_per_hop": alone["ms"] / alone["batch"],
        "state_bytes": 4 * sum(_size(tensor.shape) for tensor in manifest.state),
        "steps": rows,
    }


def measure_limits(runtimes: dict[str, Runtime], manifest: Manifest) -> dict[str, Limit]:
    """Measure what the core could do at best with the vectors of each native build among the runtimes."""
    names = {name: r.name.partition("-")[2] for name, r in runtimes.items() if isinstance(r, NativeRuntime)}
    return {name: measure_limit(manifest, width) for name, width in names.items()}


def _streams(row: dict[str, Any]) -> float:
    return float(row["streams_per_core"])


def _size(shape: list[int]) -> int:
    size = 1
    for length in shape:
        size *= length
    return size
