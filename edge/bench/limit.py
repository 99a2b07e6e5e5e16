"""What one core of this machine could do at best: the limit that a runtime's speed is held against.

A hop is so many multiply-adds and so many exponentials. Their rates are measured in the kernel's own build, between
registers and in the first cache; a hop that took no longer than both one after the other would have reached the limit.
"""

from __future__ import annotations

import time
from dataclasses import dataclass

from edge.runtime.manifest import Manifest
from edge.runtime.native_build import native_module
from edge.runtime.native_shape import shape_of

ROUNDS = 5000
TRIALS = 300
GATES = 3
"""Exponentials of a channel besides those of its states: two SiLU and the softplus of its step size."""

SCAN_MULTIPLY_ADDS = 3
"""Of one state and frame: decay, input, output; and its power, where that is a product of the channel's others."""


@dataclass(frozen=True)
class Work:
    """What must be computed."""

    multiply_adds: int
    exponentials: int


@dataclass(frozen=True)
class Peak:
    """What one core computes in a second at best."""

    multiply_adds_per_s: float
    exponentials_per_s: float

    def seconds(self, work: Work) -> float:
        """Return how long some work takes at least."""
        return work.multiply_adds / self.multiply_adds_per_s + work.exponentials / self.exponentials_per_s


@dataclass(frozen=True)
class Limit:
    """What one core could carry of a model, were nothing but its arithmetic to be done."""

    width: str
    multiply_adds_per_s: float
    exponentials_per_s: float
    multiply_adds_per_hop: int
    exponentials_per_hop: int
    streams_per_core: float


def limit_of(width: str, peak: Peak, work: Work, hop_s: float) -> Limit:
    """Return how many streams in real time a core could carry, whose hops are that much work each."""
    streams = hop_s / peak.seconds(work)
    return Limit(
        width, peak.multiply_adds_per_s, peak.exponentials_per_s, work.multiply_adds, work.exponentials, streams
    )


def measure_limit(manifest: Manifest, width: str | None = None) -> Limit:
    """Measure the limit of a build of the native kernel; raises RuntimeUnavailableError for a model it cannot run."""
    width, _ = native_module(width)
    return limit_of(width, measure_peak(width), hop_work(manifest, manifest.hop_samples), manifest.hop_s)


def hop_work(manifest: Manifest, samples: int) -> Work:
    """Count what a step of one stream computes; raises RuntimeUnavailableError for a model of another kind."""
    s = shape_of(manifest)
    projections = s.d_inner * (2 * s.d_model + 2 * s.dt_rank + 2 * s.d_state + s.d_model)
    powers = 1 if s.decays == "multiples" else s.d_state
    channels = s.d_inner * (s.d_conv + SCAN_MULTIPLY_ADDS * s.d_state + s.d_state - powers)
    per_frame = s.n_layers * (projections + channels)
    exponentials = s.n_layers * s.d_inner * (powers + GATES)
    frames, rows = samples // s.stride, samples
    stem, silu = 0, 0
    for stage in s.stem_stages:
        rows //= stage.stride
        stem += rows * stage.width * stage.kernel * stage.inputs
        silu += rows * stage.width if stage.name != "stem" else 0
    return Work(per_frame * frames + stem + s.n_classes * s.pooled, exponentials * frames + silu)


def measure_peak(width: str | None = None) -> Peak:
    """Measure a build of the native kernel, the best of many trials; takes about half a second."""
    _, module = native_module(width)

    def rate(kind: str) -> float:
        return max(_rate(module.peak, kind) for _ in range(TRIALS))

    return Peak(rate("multiply_add"), rate("exp"))


def _rate(peak: object, kind: str) -> float:
    assert callable(peak)
    begun_s = time.thread_time()
    operations: int = peak(kind, ROUNDS)
    return operations / (time.thread_time() - begun_s)
