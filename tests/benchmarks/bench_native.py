"""The native runtime at every width against ONNX Runtime, and against what the machine could do at best.

    python tests/benchmarks/bench_native.py [--bundle DIR] [--seconds 10] [--json]

One thread. Times are CPU time of the calling thread, the least of many short runs that take turns, so that other work
on the machine counts little. `streams` is how many streams in real time one core carries; `/onnx` the ratio to ONNX
Runtime at the same batch in the same rounds; `of limit` the share of what the measured multiply-adds and exponentials
of that width allow (edge/bench/limit.py).
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).parents[2]))

from edge.bench.limit import hop_work, measure_peak
from edge.cli.output import emit_json
from edge.runtime.base import Runtime
from edge.runtime.bundle import Bundle, load_bundle
from edge.runtime.native import NativeRuntime
from edge.runtime.native_build import runnable_builds
from edge.runtime.onnx import OnnxRuntime

BATCHES = (1, 16, 64)
RUNS_IN_A_TURN = 5  # the first finds the other's data in the cache
ONNX = "onnxruntime"


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--bundle", type=Path, help="the bundle (default: the shipped one)")
    parser.add_argument("--seconds", type=float, default=10.0, help="for each batch and length of a step")
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args()
    bundle = load_bundle(args.bundle)
    results = measure(bundle, args.seconds)
    if args.json:
        emit_json(results)
        return
    for width, peak in results["peaks"].items():
        print(f"{width}: {peak['multiply_adds_per_s'] / 1e9:.1f} G multiply-adds/s, "
              f"{peak['exponentials_per_s'] / 1e9:.2f} G exp/s, limit {peak['streams']:.0f} streams")  # fmt: skip
    print(f"{'batch':>5} {'samples':>8} {'runtime':<15} {'ms/stream':>10} {'streams':>8} {'/onnx':>6}  of limit")
    for row in results["steps"]:
        limit = "" if row["of_limit"] is None else f"{row['of_limit']:.0%}"
        print(f"{row['batch']:>5} {row['samples']:>8} {row['runtime']:<15} {row['ms_per_stream']:>10.4f} "
              f"{row['streams']:>8.0f} {row['over_onnx']:>6.2f}  {limit:>8}")  # fmt: skip


def measure(bundle: Bundle, seconds: float) -> dict[str, Any]:
    """Return peaks by width and a row for every batch, length of a step and runtime."""
    manifest = bundle.manifest
    widths = list(runnable_builds())
    peaks = {f"native-{width}": measure_peak(width) for width in widths}
    runtimes: list[Runtime] = [*(NativeRuntime(bundle, width=width) for width in widths), OnnxRuntime(bundle)]
    rows = []
    half = manifest.hop_samples // 2 // manifest.stride * manifest.stride
    for samples in (manifest.hop_samples, half):
        real_s = samples / manifest.signal.rate_hz
        for batch in BATCHES:
            steps = [stepper(runtime, batch, samples) for runtime in runtimes]
            taken_s = dict(zip((r.name for r in runtimes), least_seconds(seconds, steps), strict=True))
            for name, step_s in taken_s.items():
                best_s = peaks[name].seconds(hop_work(manifest, samples)) if name in peaks else None
                rows.append(
                    {
                        "batch": batch, "samples": samples, "runtime": name,
                        "ms_per_stream": step_s / batch * 1000, "streams": real_s * batch / step_s,
                        "over_onnx": taken_s[ONNX] / step_s,
                        "of_limit": None if best_s is None else best_s * batch / step_s,
                    }
                )  # fmt: skip
    work = hop_work(manifest, manifest.hop_samples)
    return {
        "peaks": {
            name: {
                "multiply_adds_per_s": peak.multiply_adds_per_s,
                "exponentials_per_s": peak.exponentials_per_s,
                "streams": manifest.hop_s / peak.seconds(work),
            }
            for name, peak in peaks.items()
        },
        "steps": rows,
    }


def stepper(runtime: Runtime, batch: int, samples: int) -> Callable[[], object]:
    """Return a call that steps `batch` slots by noise."""
    slots = [runtime.open_slot() for _ in range(batch)]
    leads = len(runtime.bundle.manifest.leads)
    frames = np.random.default_rng(0).standard_normal((batch, samples, leads), dtype=np.float32)
    return lambda: runtime.step(slots, frames)


def least_seconds(seconds: float, calls: list[Callable[[], object]]) -> list[float]:
    """Return the least CPU time of each call, called in turn for about `seconds`."""
    least = [float("inf") for _ in calls]
    deadline = time.perf_counter() + seconds
    while time.perf_counter() < deadline:
        for index, call in enumerate(calls):
            least[index] = min(least[index], *(run_seconds(call) for _ in range(RUNS_IN_A_TURN)))
    return least


def run_seconds(call: Callable[[], object]) -> float:
    """Return the CPU time of one call."""
    before = time.thread_time()
    call()
    return time.thread_time() - before


if __name__ == "__main__":
    main()
