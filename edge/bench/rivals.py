"""What a user would do otherwise, for the same score: the same model over the whole window at every hop, say.

Others come from a file with a function `rivals(bundle)` that returns a list of Rival: what needs packages that a device
does not have.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edge.bench import BenchError
from edge.bench.effort import RuntimeEffort
from edge.bench.runtimes import whole_strides
from edge.bench.timing import Call, Steps, Timed, least_seconds, noise
from edge.runtime.base import Runtime, initial_state
from edge.runtime.bundle import Bundle
from edge.runtime.manifest import RECURRENT
from edge.runtime.onnx import OnnxRuntime

WINDOW = "window"
HALF_SECOND_S = 0.5
OURS, OURS_HALF = "ours", "ours at half a second"


@dataclass(frozen=True)
class Rival:
    """Another way to a score."""

    name: str
    what: str
    """One line for people."""
    prepare: Callable[[int], Call]
    """Batch → a call that does for so many streams what one hop costs. ImportError: its packages are not there."""
    per_window: bool = False
    """Whether it costs the same however short the hop."""


def onnx_window(bundle: Bundle) -> Rival:
    """Return the same model in ONNX Runtime, at every hop from a cold state over the whole window.

    Where a score is the mean of votes it gives one vote over the window: the others would cost next to nothing.
    """
    manifest = bundle.manifest

    def prepare(batch: int) -> Call:
        runtime, cold = OnnxRuntime(bundle), initial_state(manifest.state, batch)
        frames = noise(batch, manifest.window_samples, len(manifest.leads))
        return lambda: runtime.advance(cold, frames)

    what = f"the same model in ONNX Runtime, the whole window of {manifest.window_s:g} s at every hop"
    return Rival(WINDOW, what, prepare, per_window=True)


def load_rivals(path: Path, bundle: Bundle) -> list[Rival]:
    """Return what `rivals(bundle)` of a Python file returns; raises BenchError when there is no such function."""
    spec = importlib.util.spec_from_file_location("rivals", path)
    if spec is None or spec.loader is None or not path.is_file():
        raise BenchError(f"{path} is no Python file; --rivals wants one with a function rivals(bundle)")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    if not callable(getattr(module, "rivals", None)):
        raise BenchError(f"{path} has no function rivals(bundle) that returns a list of edge.bench.rivals.Rival")
    return list(module.rivals(bundle))


def rivals_of(bundle: Bundle, path: Path | None) -> list[Rival]:
    """Return every rival there is to a bundle; a windowed one is itself what would be done otherwise."""
    own = [onnx_window(bundle)] if bundle.manifest.kind == RECURRENT else []
    return own + ([] if path is None else load_rivals(path, bundle))


def measure_rivals(
    runtime: Runtime, rivals: Iterable[Rival], effort: RuntimeEffort, tell: Callable[[str], None]
) -> dict[str, dict[str, Any]]:
    """Time a runtime's hop and its rivals', all taking turns; return by rival what it costs and how many times ours."""
    manifest = runtime.bundle.manifest
    half = whole_strides(manifest, round(HALF_SECOND_S * manifest.signal.rate_hz))
    results: dict[str, dict[str, Any]] = {rival.name: {"what": rival.what, "steps": []} for rival in rivals}
    with Steps(runtime, max(effort.rival_batches)) as steps:
        for batch in effort.rival_batches:
            cases = {OURS: steps.of(batch, manifest.hop_samples), OURS_HALF: steps.of(batch, half)}
            cases |= _prepared(rivals, batch, results)
            tell(f"rivals: a hop at batch {batch}, {', '.join(name for name in cases if name in results)}")
            taken = least_seconds(effort.seconds, cases)
            for rival in rivals:
                if rival.name in taken:
                    results[rival.name]["steps"].append(_row(rival, batch, taken, manifest.hop_s))
    for result in results.values():
        result |= summary_of(result["steps"], manifest.hop_s, half / manifest.signal.rate_hz)
    return results


def summary_of(rows: list[dict[str, Any]], hop_s: float, half_s: float) -> dict[str, Any]:
    """Return streams per core and ratios, each side at its own best batch; None where nothing was measured.

    At a hop of half a second a rival that looks at a window costs what it did, and we what a step so long costs.
    """
    if not rows:
        return {"streams_per_core": None, "ours_over_it": None, "ours_over_it_at_half_second": None}
    its_ms, ours_ms = (min(row[key] for row in rows) for key in ("ms_per_stream", "ours_ms_per_stream"))
    halves = [row["ours_at_half_ms_per_stream"] for row in rows if "ours_at_half_ms_per_stream" in row]
    return {
        "streams_per_core": hop_s * 1000 / its_ms,
        "ours_over_it": its_ms / ours_ms,
        "ours_over_it_at_half_second": its_ms / min(halves) if halves else None,
        "half_second_s": half_s,
    }


def _prepared(rivals: Iterable[Rival], batch: int, results: dict[str, dict[str, Any]]) -> dict[str, Timed]:
    """Make the rivals ready for a batch, and note of each that cannot be had what it lacks."""
    cases = {}
    for rival in rivals:
        try:
            cases[rival.name] = Timed(rival.prepare(batch))
        except ImportError as error:
            results[rival.name]["missing"] = f"{error.name or error} is not installed"
    return cases


def _row(rival: Rival, batch: int, taken_s: dict[str, float], hop_s: float) -> dict[str, Any]:
    row = {
        "batch": batch,
        "ms": taken_s[rival.name] * 1000,
        "ms_per_stream": taken_s[rival.name] * 1000 / batch,
        "streams_per_core": hop_s * batch / taken_s[rival.name],
        "ours_ms_per_stream": taken_s[OURS] * 1000 / batch,
    }
    if rival.per_window:
        row["ours_at_half_ms_per_stream"] = taken_s[OURS_HALF] * 1000 / batch
    return row
