"""One run of the benchmark, part by part, as plain data."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from edge.bench.cold_start import measure_daemon_start, measure_start
from edge.bench.daemon import measure_daemon
from edge.bench.effort import DAEMON_PART, RUNTIMES_PART, DaemonEffort, Effort, RuntimeEffort
from edge.bench.load import RATE_HZ, Plan
from edge.bench.machine import busy, describe_machine, describe_model
from edge.bench.rivals import measure_rivals, rivals_of
from edge.bench.runtimes import measure_limits, measure_steps, open_all, summary_of
from edge.bench.stand import Model
from edge.bench.tries import Mark, try_daemon
from edge.errors import RuntimeUnavailableError
from edge.runtime import onnx
from edge.runtime.bundle import Bundle
from edge.runtime.native_build import NAME as NATIVE
from edge.runtime.select import AUTO, RUNTIMES

AT_HOP = "_at_bundle_hop"
LOAD_PARTS = 10
LOAD_WARM_UP_S = 6.0

Tell = Callable[[str], None]
Result = dict[str, Any]


def run_bench(
    bundle: Bundle, effort: Effort, parts: Sequence[str], tell: Tell, runtime: str = AUTO, rivals: Path | None = None
) -> Result:
    """Measure the named parts one after another. runtime: the daemon's; rivals: a file of further ones.

    Raises BenchError when something cannot be measured here, RuntimeUnavailableError when no runtime works.
    """
    result = heading(bundle, tell)
    cold_start: dict[str, float] = {}
    if RUNTIMES_PART in parts:
        part = runtimes_part(bundle, effort.runtimes, tell, rivals)
        cold_start |= next(iter(part["runtimes"].values()))["start"]
        result |= part
    if DAEMON_PART in parts:
        model = Model(bundle.path, runtime)
        result["daemon"], starts = daemon_part(model, bundle.manifest.hop_s, effort.daemon, tell)
        cold_start |= starts
    return result | {"cold_start": cold_start}


def run_load_test(
    bundle: Bundle, streams: int, seconds: float, ill_share: float, tell: Tell, runtime: str = AUTO
) -> Result:
    """Load the daemon with so many streams for so long; the result's `load` has it as a whole and by its parts.

    Raises BenchError when it cannot be measured here.
    """
    result = heading(bundle, tell)
    hop_samples, parts = round(bundle.manifest.hop_s * RATE_HZ), min(LOAD_PARTS, max(1, int(seconds)))
    plan = Plan(streams, seconds, LOAD_WARM_UP_S, hop_samples, ill_share, parts)
    tell(f"daemon: {streams} streams for {seconds:g} s")

    def on_part(k: int, used: Mark) -> None:
        tell(f"{seconds * (k + 1) / parts:.0f} of {seconds:g} s: {used.memory_mb['daemon']:.1f} MB")

    return result | {"load": try_daemon(Model(bundle.path, runtime), plan, on_part)}


def heading(bundle: Bundle, tell: Tell) -> Result:
    """Return what figures belong to: the machine, a warning where it is busy, the model."""
    machine = describe_machine()
    warning = busy(machine)
    if warning is not None:
        tell(warning)
    return {"machine": machine, "warning": warning, "model": describe_model(bundle)}


def runtimes_part(bundle: Bundle, effort: RuntimeEffort, tell: Tell, rivals: Path | None) -> Result:
    """Measure the runtimes, the core's limit, the rivals of the first runtime, and the start of a process."""
    manifest = bundle.manifest
    further = rivals_of(bundle, rivals)  # a faulty file is told before minutes have gone by
    opened, missing = open_all(bundle, effort.every_width)
    if not opened:
        raise RuntimeUnavailableError(AUTO, "; ".join(missing.values()))
    tell("limit: multiply-adds and exponentials at full speed")
    limits = measure_limits(opened, manifest)
    rows, lengths = measure_steps(opened, manifest, effort, tell)
    runtimes = {name: summary_of(runtime, rows[name]) for name, runtime in opened.items()}
    for name, limit in limits.items():
        runtimes[name]["fraction_of_limit"] = runtimes[name]["streams_per_core"] / limit.streams_per_core
    first = next(iter(opened))
    against = measure_rivals(opened[first], further, effort, tell)
    for name in (name for name in opened if name in RUNTIMES):
        tell(f"cold start: {name}, {effort.starts} processes")
        runtimes[name]["start"] = measure_start(bundle.path, name, effort.starts, effort.streams)
    return {
        "lengths": lengths,
        "runtimes": runtimes,
        "missing_runtimes": missing,
        "limit": limit_of_native(runtimes, {name: asdict(limit) for name, limit in limits.items()}),
        "rivals": against,
        "ratios": ratios_of(first, runtimes, against),
    }


def daemon_part(model: Model, hop_s: float, effort: DaemonEffort, tell: Tell) -> tuple[Result, dict[str, float]]:
    """Measure the daemon's start, then what it holds and costs."""
    hop_samples = round(hop_s * RATE_HZ)
    tell(f"cold start: the daemon, {effort.starts} processes")
    starts = measure_daemon_start(model, hop_samples, effort.starts)
    return measure_daemon(model, hop_samples, effort, tell), starts


def limit_of_native(runtimes: Result, limits: Result) -> Result:
    """Return the limit of the native runtime's vectors and the fraction it reaches; None where it does not run."""
    limit: Result = limits.get(NATIVE, {"streams_per_core": None})
    return limit | {"fraction": runtimes.get(NATIVE, {}).get("fraction_of_limit")}


def ratios_of(first: str, runtimes: Result, rivals: Result) -> Result:
    """Return streams per core of the first runtime over those of every other, and over the rivals.

    Over what looks at a whole window the ratio is that at a hop of half a second; the one at the bundle's hop stands
    beside it. `native_over_onnx` and `native_over_window` are always there, None where one side was not measured.
    """
    ratios: Result = {"native_over_onnx": None, "native_over_window": None}
    mine = runtimes[first]["streams_per_core"]
    others = {_short(name): mine / r["streams_per_core"] for name, r in runtimes.items() if name != first}
    for name, rival in rivals.items():
        at_half, at_hop = rival["ours_over_it_at_half_second"], rival["ours_over_it"]
        others |= {name: at_hop} if at_half is None else {name: at_half, f"{name}{AT_HOP}": at_hop}
    return ratios | {f"{_short(first)}_over_{name}": ratio for name, ratio in others.items()}


def _short(runtime: str) -> str:
    return "onnx" if runtime == onnx.NAME else runtime
