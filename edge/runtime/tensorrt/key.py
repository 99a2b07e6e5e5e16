"""What an engine is built for: the graph of a precision, a range of shapes, a device and a version of TensorRT."""

from __future__ import annotations

import hashlib
from dataclasses import asdict, dataclass

import msgspec

from edge.runtime.manifest import GRAPHS, Manifest
from edge.runtime.tensorrt.targets import Device

BATCHES = (1, 16, 256)
WHOLE_WINDOW_BATCH = 16
"""Larger batches take a hop at a time and no more: a whole window of 256 streams would need ten times the memory of
the hops that are their everyday work."""


@dataclass(frozen=True)
class BatchProfile:
    """The shapes one optimisation profile of an engine takes: one batch size, chunks of any length up to `longest`."""

    batch: int
    shortest: int
    usual: int
    longest: int

    def __str__(self) -> str:
        return f"{self.batch}x{self.shortest}-{self.usual}-{self.longest}"


@dataclass(frozen=True)
class EngineKey:
    """What an engine fits; one that differs in any field is another engine."""

    graph_sha256: str
    tensorrt: str
    sm: str
    precision: str
    profiles: str

    @property
    def stem(self) -> str:
        """The name of its files: readable, and different for every key."""
        digest = hashlib.sha256(msgspec.json.encode(asdict(self))).hexdigest()[:16]
        return f"{self.precision}-sm{self.sm}-trt{self.tensorrt}-{digest}"


def batch_profiles(manifest: Manifest) -> tuple[BatchProfile, ...]:
    """Return the optimisation profiles of a model's engine, smallest batch first."""
    window, hop = manifest.window_samples, manifest.hop_samples
    return tuple(
        BatchProfile(batch, manifest.stride, hop, window if batch <= WHOLE_WINDOW_BATCH else hop) for batch in BATCHES
    )


def engine_key(manifest: Manifest, precision: str, tensorrt: str, device: Device) -> EngineKey:
    """Return the key of a model's engine on a device."""
    profiles = ",".join(map(str, batch_profiles(manifest)))
    return EngineKey(manifest.files[GRAPHS[precision]], tensorrt, device.sm_name, precision, profiles)
