"""Whether the runtimes of a bundle say what PyTorch says: cold on whole windows, and hop by hop on long streams."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from edge.errors import BundleError, RuntimeUnavailableError
from edge.runtime.base import Runtime
from edge.runtime.bundle import Bundle
from edge.runtime.manifest import Manifest
from edge.runtime.select import RUNTIMES, open_runtime
from trainer.checkpoint import model_from_bundle
from trainer.model import EcgMamba
from trainer.networks.windowed import Sliding

Float32Array = NDArray[np.float32]

TOLERANCES = {"fp32": 1e-4, "fp16": 2e-2}
"""Largest difference of a logit from PyTorch, by the precision of a runtime's projections (DESIGN, exactness c)."""

TOLERANCE = TOLERANCES["fp32"]

REFERENCE = "pytorch"
COLD_BATCH = 16
MAX_COLD_WINDOWS = 128


@dataclass(frozen=True)
class RuntimeParity:
    """How far one runtime is from PyTorch, in logits; nothing is measured where `problem` says why not."""

    runtime: str
    installed: bool
    passed: bool
    """True as well for a runtime that is not installed: it cannot be wrong."""
    problem: str | None = None
    cold_max_difference: float | None = None
    stream_max_difference: float | None = None
    states_finite: bool | None = None
    tolerance: float = TOLERANCE


@dataclass(frozen=True)
class Parity:
    """The result of a verification."""

    bundle: str
    model_hash: str
    source: str
    streams: int
    stream_s: float
    cold_windows: int
    tolerance: float
    runtimes: list[RuntimeParity]
    """PyTorch first: for it, `cold` is the whole window in one pass against hop by hop."""

    @property
    def passed(self) -> bool:
        """Whether every runtime that is here agrees."""
        return all(runtime.passed for runtime in self.runtimes)


def verify(bundle: Bundle, signals: Float32Array, source: str) -> Parity:
    """Compare every runtime with PyTorch on model input (streams, samples, leads), whole windows long.

    Raises BundleError when the weights do not fit the model of the manifest.
    """
    manifest = bundle.manifest
    windows = cold_windows(signals, manifest)
    with one_thread():
        reference = Reference(streaming_model(bundle), manifest.hop_samples, windows, signals)
    return Parity(
        bundle=f"{manifest.name} {manifest.version}",
        model_hash=manifest.model_hash,
        source=source,
        streams=len(signals),
        stream_s=signals.shape[1] / manifest.signal.rate_hz,
        cold_windows=len(windows),
        tolerance=TOLERANCE,
        runtimes=[reference.own_parity(), *(compare(bundle, name, reference) for name in RUNTIMES)],
    )


def cold_windows(signals: Float32Array, manifest: Manifest) -> Float32Array:
    """Cut streams (streams, samples, leads) into windows (windows, pooled, leads), at most MAX_COLD_WINDOWS of them.

    Of each window as many hops as a logit is pooled over: in one pass and hop by hop they end at the same logits.
    """
    windows = signals.reshape(-1, manifest.window_samples, signals.shape[2])
    windows = windows[:, : manifest.pooled_hops * manifest.hop_samples]
    return windows[:: -(-len(windows) // MAX_COLD_WINDOWS)]


@contextmanager
def one_thread() -> Iterator[None]:
    """Keep PyTorch on one thread: hops are so small that waiting for a second costs more than it gives."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def streaming_model(bundle: Bundle) -> EcgMamba | Sliding:
    """Build the PyTorch model of a bundle of either kind, to be called hop by hop."""
    model, manifest = model_from_bundle(bundle), bundle.manifest
    return model if isinstance(model, EcgMamba) else Sliding(model, manifest.window_samples, len(manifest.leads))


class Reference:
    """PyTorch's logits on the windows and along the streams; the latter a whole number of windows long.

    Windowed networks are compared from the first full window on: before it they look at silence in part, where a norm
    over a constant makes a logit of rounding errors, and nobody relies on what they say.
    """

    @torch.inference_mode()
    def __init__(
        self, model: EcgMamba | Sliding, hop_samples: int, windows: Float32Array, signals: Float32Array
    ) -> None:
        self.windows, self.signals, self.hop_samples = windows, signals, hop_samples
        whole, by_hops = [], []
        for batch in batches(windows):
            whole.append(model(torch.from_numpy(batch))[0].numpy())
            by_hops.append(self._walk(model, batch)[0][-1])
        self.cold = np.concatenate(whole)  # (windows, classes)
        self._cold_by_hops = np.concatenate(by_hops)
        self.first_hop = 0 if isinstance(model, EcgMamba) else windows.shape[1] // hop_samples - 1
        stream, self._finite = self._walk(model, signals)
        self.stream = stream[self.first_hop :]  # (hops, streams, classes)

    def own_parity(self) -> RuntimeParity:
        """How far PyTorch is from itself when it carries the state from hop to hop."""
        return _measured(REFERENCE, max_difference(self.cold, self._cold_by_hops), 0.0, self._finite)

    def _walk(self, model: EcgMamba | Sliding, signals: Float32Array) -> tuple[Float32Array, bool]:
        logits, state = [], model.initial_state(len(signals))
        for hop in hops(signals, self.hop_samples):
            scored, state = model(torch.from_numpy(hop), state)
            logits.append(scored.numpy())
        return np.stack(logits), all(bool(tensor.isfinite().all()) for tensor in state.values())


def compare(bundle: Bundle, name: str, reference: Reference, precision: str | None = None) -> RuntimeParity:
    """Run a bundle in the named runtime on what the reference has run.

    precision: what the bundle's graph computes in; None for what the runtime says, which is float32 unless it does.
    """
    try:
        runtime = open_runtime(bundle, name)
    except RuntimeUnavailableError as error:
        return RuntimeParity(name, installed=False, passed=True, problem=error.why)
    except BundleError as error:
        return RuntimeParity(name, installed=True, passed=False, problem=error.problem)
    cold = np.concatenate([_run_cold(runtime, batch) for batch in batches(reference.windows)])
    stream, finite = _run_stream(runtime, reference)
    tolerance = TOLERANCES.get(precision or str(getattr(runtime, "precision", "fp32")), math.inf)
    differences = max_difference(cold, reference.cold), max_difference(stream[reference.first_hop :], reference.stream)
    return _measured(name, *differences, finite, tolerance)


def _run_cold(runtime: Runtime, windows: Float32Array) -> Float32Array:
    slots = [runtime.open_slot() for _ in windows]
    try:
        return runtime.step(slots, windows)
    finally:
        for slot in slots:
            runtime.close_slot(slot)


def _run_stream(runtime: Runtime, reference: Reference) -> tuple[Float32Array, bool]:
    slots = [runtime.open_slot() for _ in reference.signals]
    logits = [runtime.step(slots, hop) for hop in hops(reference.signals, reference.hop_samples)]
    states = [tensor for slot in slots for tensor in runtime.save_slot(slot).values()]
    for slot in slots:
        runtime.close_slot(slot)
    return np.stack(logits), all(bool(np.isfinite(tensor).all()) for tensor in states)


def hops(signals: Float32Array, hop_samples: int) -> Iterator[Float32Array]:
    """Cut (streams, samples, leads) along time."""
    for start in range(0, signals.shape[1], hop_samples):
        yield np.ascontiguousarray(signals[:, start : start + hop_samples])


def batches(windows: Float32Array) -> Iterator[Float32Array]:
    """Cut (windows, samples, leads) along windows."""
    for start in range(0, len(windows), COLD_BATCH):
        yield np.ascontiguousarray(windows[start : start + COLD_BATCH])


def max_difference(a: Float32Array, b: Float32Array) -> float:
    """Return the largest |a - b|; NaN when either has one."""
    return float(np.abs(a - b).max())


def _measured(name: str, cold: float, stream: float, finite: bool, tolerance: float = TOLERANCE) -> RuntimeParity:
    agrees = cold <= tolerance and stream <= tolerance  # false for NaN
    problem = (
        None if agrees and finite else ("a state is not finite" if agrees else f"differs by more than {tolerance:g}")
    )
    return RuntimeParity(name, True, agrees and finite, problem, cold, stream, finite, tolerance)
