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


@dataclass(frozen=True)
class Hop:
    """What the model is given at once, and what is needed to judge it."""

    frames: Float32Array  # (hop samples, leads) model input
    raw_mv: FloatArray  # (hop samples, leads) resampled, unfiltered
    invalid: BoolArray  # (device samples of this hop, leads)
    last_index: int
    """Index in the session of the newest device sample that went into this hop."""
    number: int
    """Hops since the last start, from 1: a stream is ready once a window is full."""
    reset: Reset | None
    """Set on the first hop after a start: carried model state must be reset before it."""


class StreamPath:
    """Maps leads, runs the front-end and cuts hops; hop edges count from the last reset, not from chunk edges.

    Raises LeadsError when the device's leads do not cover the model's and SignalError for an unsupported rate.
    """

    def __init__(self, manifest: Manifest, rate_hz: int, leads: tuple[str, ...]) -> None:
        self._lead_map = LeadMap.between(leads, manifest.leads)
        self._frontend = Frontend(manifest.frontend(), rate_hz)
        self._hop_samples = manifest.hop_samples
        self._rate_in_hz, self._rate_hz = rate_hz, manifest.signal.rate_hz
        self._clear(0, Reset.START)

    def push(self, run: Run) -> list[Hop]:
        """Take the next samples; return the hops they complete."""
        if run.reset is not None:
            self._frontend.reset()
            self._clear(run.index, run.reset)
        produced = self._frontend.process(np.asarray(self._lead_map.select(run.samples_mv), dtype=np.float64))
        self._frames = np.concatenate([self._frames, produced.model_input])
        self._raw_mv = np.concatenate([self._raw_mv, produced.raw_mv])
        self._invalid = np.concatenate([self._invalid, self._lead_map.select(run.invalid).astype(bool)])
        return [self._cut() for _ in range(len(self._frames) // self._hop_samples)]

    def save(self) -> dict[str, NDArray[np.generic]]:
        """Return all carried state as arrays."""
        return {
            **{f"frontend.{name}": array for name, array in self._frontend.save().items()},
            "frames": self._frames, "raw_mv": self._raw_mv, "invalid": self._invalid,
            "counters": np.array([self._start, self._invalid_from, self._hops]),
        }  # fmt: skip

    def load(self, state: dict[str, NDArray[np.generic]]) -> None:
        """Put back what `save` returned: the stream goes on as if nothing had happened."""
        prefix = "frontend."
        self._frontend.load({name[len(prefix) :]: a for name, a in state.items() if name.startswith(prefix)})
        self._frames = np.array(state["frames"], dtype=np.float32)
        self._raw_mv = np.array(state["raw_mv"], dtype=np.float64)
        self._invalid = np.array(state["invalid"], dtype=bool)
        self._start, self._invalid_from, self._hops = (int(n) for n in state["counters"])
        self._reset = None

    def _clear(self, index: int, reset: Reset) -> None:
        leads = len(self._lead_map.wanted)
        self._frames = np.empty((0, leads), dtype=np.float32)
        self._raw_mv = np.empty((0, leads))
        self._invalid = np.empty((0, leads), dtype=bool)
        self._start = self._invalid_from = index  # session index of the first sample, of _invalid[0]
        self._hops = 0
        self._reset: Reset | None = reset

    def _cut(self) -> Hop:
        size = self._hop_samples
        self._hops += 1
        last_index = self._start + (self._hops * size - 1) * self._rate_in_hz // self._rate_hz
        taken = last_index + 1 - self._invalid_from
        hop = Hop(
            self._frames[:size], self._raw_mv[:size], self._invalid[:taken], last_index, self._hops, self._reset
        )
        self._frames, self._raw_mv, self._invalid = self._frames[size:], self._raw_mv[size:], self._invalid[taken:]
        self._invalid_from = last_index + 1
        self._reset = None
        return hop
