"""One stream's way from ordered samples to hops of model input."""

from __future__ import annotations

import msgspec
import numpy as np
from numpy.typing import NDArray

from edge.runtime.manifest import Manifest
from edge.signal.frontend import Float32Array, FloatArray, Frontend
from edge.signal.invalid import InvalidArray
from edge.signal.leads import LeadMap
from edge.stream.runs import Reset, Run

RESETS = tuple(Reset)
"""Saved by their place in this order, which so must not change but at its end."""


class Hop(msgspec.Struct, frozen=True):
    """What the model is given at once, and what is needed to judge it."""

    frames: Float32Array  # (hop samples, leads) model input
    raw_mv: FloatArray  # (hop samples, leads) resampled, unfiltered
    invalid: InvalidArray  # (device samples of this hop, leads)
    last_index: int
    """Index in the session of the newest device sample that went into this hop."""
    reset: Reset | None
    """Set on the first hop after a start: carried model state must be reset before it."""


class StreamPath:
    """Maps leads, runs the front-end and cuts hops; hop edges count from the last reset, not from chunk edges.

    Samples wait unfiltered until they complete a hop: the front-end gives the same bits in any chunking, and one call
    a hop costs less than one a chunk. Raises LeadsError when the device's leads do not cover the model's and
    SignalError for an unsupported rate.
    """

    def __init__(self, manifest: Manifest, rate_hz: int, leads: tuple[str, ...]) -> None:
        self._lead_map = LeadMap.between(leads, manifest.leads)
        self._frontend = Frontend(manifest.frontend(), rate_hz)
        self._hop_samples = manifest.hop_samples
        self._rate_in_hz, self._rate_hz = rate_hz, manifest.signal.rate_hz
        self._device_leads = len(leads)
        self._no_samples, self._none_invalid = np.empty((0, len(leads))), np.empty((0, len(leads)), dtype=np.uint8)
        self._samples_mv: list[FloatArray] = []
        self._invalid: list[InvalidArray] = []
        self._reset: Reset | None = None
        self._begin(0, Reset.START)

    def push(self, run: Run) -> list[Hop]:
        """Take the next samples; return the hops they complete."""
        if run.reset is not None:
            self._frontend.reset()
            self._begin(run.index, run.reset)
        self._samples_mv.append(run.samples_mv)
        self._invalid.append(run.invalid)
        self._waiting += len(run.samples_mv)
        return self._cut_all() if self._waiting >= self._needed() else []

    @property
    def end(self) -> int:
        """Index one past the newest sample."""
        return self._cut_at + self._waiting

    def save(self) -> dict[str, NDArray[np.generic]]:
        """Return all carried state as arrays."""
        samples_mv, invalid = self._joined()
        return {
            **{f"frontend.{name}": array for name, array in self._frontend.save().items()},
            "samples_mv": samples_mv, "invalid": invalid,
            "counters": np.array([self._start, self._cut_at, self._hops]),
            "reset": np.array([] if self._reset is None else [RESETS.index(self._reset)], dtype=np.int64),
        }  # fmt: skip

    def load(self, state: dict[str, NDArray[np.generic]]) -> None:
        """Put back what `save` returned: the stream goes on as if nothing had happened.

        Raises ValueError when the samples that wait are not of these leads, or the counters do not agree.
        """
        samples_mv, invalid = (
            np.array(state["samples_mv"], dtype=np.float64),
            np.array(state["invalid"], dtype=np.uint8),
        )
        if samples_mv.shape != (len(samples_mv), self._device_leads) or invalid.shape != samples_mv.shape:
            raise ValueError("the samples that wait are of other leads")
        start, cut_at, hops = (int(n) for n in state["counters"])
        if min(start, hops) < 0 or cut_at != (self._last_index(hops, start) + 1 if hops else start):
            raise ValueError(f"{hops} hops from sample {start} on do not end before sample {cut_at}")
        if len(samples_mv) >= self._last_index(hops + 1, start) + 1 - cut_at:
            raise ValueError(f"{len(samples_mv)} samples wait, which complete a hop")
        prefix = "frontend."
        self._frontend.load({name[len(prefix) :]: a for name, a in state.items() if name.startswith(prefix)})
        self._samples_mv, self._invalid, self._waiting = [samples_mv], [invalid], len(samples_mv)
        self._start, self._cut_at, self._hops = start, cut_at, hops
        self._reset = next((RESETS[int(n)] for n in state["reset"]), None)

    def _begin(self, index: int, reset: Reset) -> None:
        """Start afresh at a session index: the first sample's, and of the first sample that waits."""
        self._start = self._cut_at = index
        self._samples_mv, self._invalid = [], []
        self._waiting = self._hops = 0
        self._reset = reset

    def _needed(self) -> int:
        """Return how many waiting device samples complete the next hop."""
        return self._last_index(self._hops + 1, self._start) + 1 - self._cut_at

    def _last_index(self, hops: int, start: int) -> int:
        """Return the index of the newest device sample in the hops-th hop since the start."""
        return start + (hops * self._hop_samples - 1) * self._rate_in_hz // self._rate_hz

    def _joined(self) -> tuple[FloatArray, InvalidArray]:
        """Return the samples that wait, (device samples, leads) in the device's order, and what is wrong with them."""
        if not self._samples_mv:
            return self._no_samples, self._none_invalid
        return np.concatenate(self._samples_mv), np.concatenate(self._invalid)

    def _cut_all(self) -> list[Hop]:
        samples_mv, invalid = self._joined()
        hops = []
        begin = 0
        while len(samples_mv) - begin >= (count := self._needed()):
            hops.append(self._hop(samples_mv[begin : begin + count], invalid[begin : begin + count]))
            begin += count
        self._waiting = len(samples_mv) - begin
        rest = bool(self._waiting)  # as copies: a view, even of nothing, would keep all samples of the hop in memory
        self._samples_mv = [samples_mv[begin:].copy()] if rest else []
        self._invalid = [invalid[begin:].copy()] if rest else []
        return hops

    def _hop(self, samples_mv: FloatArray, invalid: InvalidArray) -> Hop:
        produced = self._frontend.process(self._lead_map.select(samples_mv))
        self._hops += 1
        self._cut_at += len(samples_mv)
        hop = Hop(
            frames=produced.model_input,
            raw_mv=produced.raw_mv,
            invalid=self._lead_map.select(invalid),
            last_index=self._cut_at - 1,
            reset=self._reset,
        )
        self._reset = None
        return hop
