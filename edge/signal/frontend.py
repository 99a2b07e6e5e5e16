"""The signal path before the model: resample, band-pass, normalise. Training and serving both call it."""

from __future__ import annotations

from dataclasses import dataclass

import msgspec
import numpy as np
from numpy.typing import NDArray

from edge.signal import kernel
from edge.signal.bandpass import CausalBandpass
from edge.signal.resample import CausalResampler

FloatArray = NDArray[np.float64]
Float32Array = NDArray[np.float32]


@dataclass(frozen=True)
class FrontendSpec:
    """What the front-end of one model does: rate, filter sections and fixed normalisation."""

    rate_hz: int
    sos: FloatArray  # (sections, 6)
    mean_mv: FloatArray  # (leads,)
    std_mv: FloatArray  # (leads,)


class Frames(msgspec.Struct, frozen=True):
    """What the front-end makes of a chunk, both (samples, leads) at the model's rate."""

    raw_mv: FloatArray
    model_input: Float32Array


class Frontend:
    """Turns millivolts at a device's rate into model input, sample by sample, with carried state.

    Input is (samples, leads) in the model's lead order; any chunking gives bit-identical output.
    """

    def __init__(self, spec: FrontendSpec, rate_in_hz: int) -> None:
        self.spec = spec
        self._resampler = CausalResampler(rate_in_hz, spec.rate_hz)
        self._bandpass = CausalBandpass(spec.sos)

    @property
    def delay_s(self) -> float:
        """Delay of the resampler in seconds (the minimum-phase filter's own delay is not counted)."""
        return self._resampler.delay_s

    def reset(self) -> None:
        """Forget the past."""
        self._resampler.reset()
        self._bandpass.reset()

    def process(self, samples_mv: FloatArray) -> Frames:
        """Take the next samples (n, leads) in millivolts, return the frames that are due."""
        raw_mv = self._resampler.process(samples_mv)
        return Frames(raw_mv, normalise(self.spec, self._bandpass.process(raw_mv)))

    def save(self) -> dict[str, NDArray[np.generic]]:
        """Return the carried state as arrays; `load` puts it back."""
        resampler, bandpass = self._resampler, self._bandpass
        state: dict[str, NDArray[np.generic]] = {"counters": np.array([resampler.start, resampler.produced])}
        if resampler.buffer is not None:
            state["resampler"] = resampler.buffer
        if bandpass.state is not None:
            state["bandpass"] = bandpass.state
        return state

    def load(self, state: dict[str, NDArray[np.generic]]) -> None:
        """Put back a state that `save` returned."""
        self._resampler.start, self._resampler.produced = (int(n) for n in state["counters"])
        self._resampler.buffer = _as_float64(state.get("resampler"))
        self._bandpass.state = _as_float64(state.get("bandpass"))


def process_records(spec: FrontendSpec, records_mv: FloatArray) -> Float32Array:
    """Run whole records at the model's rate through the same filter: (records, samples, leads) → the same shape."""
    return normalise(spec, CausalBandpass(spec.sos).process(records_mv))


def normalise(spec: FrontendSpec, filtered_mv: FloatArray) -> Float32Array:
    """Scale by the training folds' fixed statistics, (..., leads); never by the record's own."""
    *_, leads = filtered_mv.shape
    library = kernel.library_for(leads)
    if library is None or filtered_mv.ndim != 2:
        return normalise_numpy(spec, filtered_mv)
    normalised = np.empty(filtered_mv.shape, dtype=np.float32)
    library.normalise(filtered_mv, spec.mean_mv, spec.std_mv, normalised, len(filtered_mv), leads)
    return normalised


def normalise_numpy(spec: FrontendSpec, filtered_mv: FloatArray) -> Float32Array:
    """Do what `normalise` does: quick only for much at once."""
    scaled = filtered_mv - spec.mean_mv
    scaled /= spec.std_mv
    return scaled.astype(np.float32)


def _as_float64(array: NDArray[np.generic] | None) -> FloatArray | None:
    return None if array is None else np.array(array, dtype=np.float64)
