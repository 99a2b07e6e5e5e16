"""One stream's way from ordered samples to hops of model input."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from edge.runtime.manifest import Manifest
from edge.signal.frontend import Float32Array, FloatArray, Frontend
from edge.signal.leads import LeadMap
from edge.stream.assembler import Reset, Run

BoolArray = NDArray[np.bool_]

RESETS = tuple(Reset)
"""Saved by their place in this order, which so must not change but at its end."""


@dataclass(frozen=True)
class Hop:
    """What the model is given at once, and what is needed to judge it."""

    frames: Float32Array  # (hop samples, leads) model input
    raw_mv: FloatArray  # (hop samples, leads) resampled, unfiltered
    invalid: BoolArray  # (device samples of this hop, leads)
    last_index: int
    """Index in the session of the newest device sample that went into this hop."""
    reset: Reset | None
    """Set on the first hop after a start: carried model state must be reset before it."""


@dataclass(frozen=True)
class Partial:
    """What waits for the next hop edge: frames and raw_mv at the model's rate, invalid at the device's."""

    frames: Float32Array
    raw_mv: FloatArray
    invalid: BoolArray

    def extended(self, frames: Float32Array, raw_mv: FloatArray, invalid: BoolArray) -> Partial:
        """Return this with more samples behind it."""
        return Partial(
            np.concatenate([self.frames, frames]),
            np.concatenate([self.raw_mv, raw_mv]),
            np.concatenate([self.invalid, invalid]),
        )

    def split(self, samples: int, device_samples: int) -> tuple[Partial, Partial]:
        """Return the first samples and the rest."""
        return (
            Partial(self.frames[:samples], self.raw_mv[:samples], self.invalid[:device_samples]),
            Partial(self.frames[samples:], self.raw_mv[samples:], self.invalid[device_samples:]),
        )


class StreamPath:
    """Maps leads, runs the front-end and cuts hops; hop edges count from the last reset, not from chunk edges.

    Raises LeadsError when the device's leads do not cover the model's and SignalError for an unsupported rate.
    """

    def __init__(self, manifest: Manifest, rate_hz: int, leads: tuple[str, ...]) -> None:
        self._lead_map = LeadMap.between(leads, manifest.leads)
        self._frontend = Frontend(manifest.frontend(), rate_hz)
        self._hop_samples = manifest.hop_samples
        self._rate_in_hz, self._rate_hz = rate_hz, manifest.signal.rate_hz
        self._partial = self._nothing()
        self._start = self._invalid_from = self._hops = 0
        self._reset: Reset | None = Reset.START

    def push(self, run: Run) -> list[Hop]:
        """Take the next samples; return the hops they complete."""
        if run.reset is not None:
            self._frontend.reset()
            self._begin(run.index, run.reset)
        produced = self._frontend.process(np.asarray(self._lead_map.select(run.samples_mv), dtype=np.float64))
        invalid = self._lead_map.select(run.invalid).astype(bool)
        self._partial = self._partial.extended(produced.model_input, produced.raw_mv, invalid)
        return [self._cut() for _ in range(len(self._partial.frames) // self._hop_samples)]

    def save(self) -> dict[str, NDArray[np.generic]]:
        """Return all carried state as arrays."""
        return {
            **{f"frontend.{name}": array for name, array in self._frontend.save().items()},
            "frames": self._partial.frames, "raw_mv": self._partial.raw_mv, "invalid": self._partial.invalid,
            "counters": np.array([self._start, self._invalid_from, self._hops]),
            "reset": np.array([] if self._reset is None else [RESETS.index(self._reset)], dtype=np.int64),
        }  # fmt: skip

    def load(self, state: dict[str, NDArray[np.generic]]) -> None:
        """Put back what `save` returned: the stream goes on as if nothing had happened."""
        prefix = "frontend."
        self._frontend.load({name[len(prefix) :]: a for name, a in state.items() if name.startswith(prefix)})
        self._partial = Partial(
            np.array(state["frames"], dtype=np.float32),
            np.array(state["raw_mv"], dtype=np.float64),
            np.array(state["invalid"], dtype=bool),
        )
        self._start, self._invalid_from, self._hops = (int(n) for n in state["counters"])
        self._reset = next((RESETS[int(n)] for n in state["reset"]), None)

    def _begin(self, index: int, reset: Reset) -> None:
        self._partial = self._nothing()
        self._start = self._invalid_from = index  # session index of the first sample, of partial.invalid[0]
        self._hops = 0
        self._reset = reset

    def _nothing(self) -> Partial:
        leads = len(self._lead_map.wanted)
        return Partial(np.empty((0, leads), dtype=np.float32), np.empty((0, leads)), np.empty((0, leads), dtype=bool))

    def _cut(self) -> Hop:
        self._hops += 1
        last_index = self._start + (self._hops * self._hop_samples - 1) * self._rate_in_hz // self._rate_hz
        head, self._partial = self._partial.split(self._hop_samples, last_index + 1 - self._invalid_from)
        hop = Hop(head.frames, head.raw_mv, head.invalid, last_index, self._reset)
        self._invalid_from = last_index + 1
        self._reset = None
        return hop
