"""What a runtime is: it owns the states of many streams in slots and advances chosen slots by a hop."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from edge.errors import RuntimeUnavailableError, SignalError
from edge.runtime.bundle import Bundle
from edge.runtime.manifest import RECURRENT, Calibration, Manifest, StateTensor

Float32Array = NDArray[np.float32]
State = dict[str, Float32Array]
"""The carried tensors of one stream by name."""


class Runtime(Protocol):
    """Advances the states of streams. One thread at a time may call it; `step` releases the GIL while it computes."""

    name: str
    bundle: Bundle

    def open_slot(self) -> int:
        """Reserve a slot in its initial state and return its number."""

    def close_slot(self, slot: int) -> None:
        """Give a slot back."""

    def reset_slot(self, slot: int) -> None:
        """Put a slot back into its initial state."""

    def step(self, slots: Sequence[int], frames: Float32Array) -> Float32Array:
        """Advance distinct slots by the same number of samples.

        frames: (slots, samples, leads), samples a multiple of the stride. Returns logits (slots, classes) over the
        window that ends with the last sample.
        """

    def save_slot(self, slot: int) -> State:
        """Return a copy of a slot's state."""

    def load_slot(self, slot: int, state: State) -> None:
        """Put back a state that `save_slot` returned; raises SignalError when names or shapes differ."""

    def state_sizes(self, slot: int) -> Mapping[str, float]:
        """Return the root mean square of each tensor of a slot (see `root_mean_square`)."""


def root_mean_square(tensor: Float32Array) -> float:
    """Return the root mean square of all elements, in double precision: a finite tensor has a finite one."""
    flat = tensor.ravel().astype(np.float64)
    return math.sqrt(float(flat @ flat) / flat.size)


def sizes_of(state: State) -> dict[str, float]:
    """Return what `Runtime.state_sizes` says of a slot in this state."""
    return {name: root_mean_square(tensor) for name, tensor in state.items()}


def initial_state(tensors: Sequence[StateTensor], batch: int) -> State:
    """Return the state of `batch` streams at their start: name → (batch, *shape)."""
    return {t.name: np.full((batch, *t.shape), t.init, dtype=np.float32) for t in tensors}


def require_recurrent(runtime: str, manifest: Manifest) -> None:
    """Raise RuntimeUnavailableError in the name of a runtime that computes nothing but recurrent bundles."""
    if manifest.kind != RECURRENT:
        raise RuntimeUnavailableError(runtime, f"the bundle is {manifest.kind}, {runtime} computes recurrent ones")


def check_frames(manifest: Manifest, slots: int, frames: Float32Array) -> None:
    """Raise SignalError unless frames (slots, samples, leads) are what `Runtime.step` takes."""
    fits = frames.ndim == 3 and frames.shape[0] == slots and frames.shape[2] == len(manifest.leads)
    if not fits or frames.shape[1] == 0 or frames.shape[1] % manifest.stride != 0:
        raise SignalError(
            f"frames have shape {frames.shape}; {slots} slots need ({slots}, samples, {len(manifest.leads)}) "
            f"with samples a multiple of {manifest.stride}"
        )


FARTHEST_LOGIT = 1e6
"""As good as infinite, and still a number after a multiplication by 0."""


def calibrated(calibration: Calibration, outputs: Float32Array) -> NDArray[np.float64]:
    """Turn a model's outputs (..., classes) into calibrated probabilities, each record's by itself to the last bit."""
    logits = logits_of(calibration, outputs)
    scaled = logits * calibration.scale + calibration.bias
    if calibration.others:
        finite = np.clip(logits, -FARTHEST_LOGIT, FARTHEST_LOGIT)
        for lender, weights in enumerate(np.transpose(calibration.others)):  # in this order, whatever the batch
            scaled += finite[..., lender, np.newaxis] * weights
    probabilities: NDArray[np.float64] = 1.0 / (1.0 + np.exp(-np.clip(scaled, -60.0, 60.0)))
    return probabilities


def logits_of(calibration: Calibration, outputs: Float32Array) -> NDArray[np.float64]:
    """Return what is calibrated of a model's outputs (..., classes): themselves, or of a softmax the log-odds."""
    return log_odds(outputs) if calibration.softmax else np.asarray(outputs, dtype=np.float64)


def log_odds(outputs: Float32Array) -> NDArray[np.float64]:
    """Turn the outputs (..., classes) of a softmax into the log-odds of each class against all the others."""
    wide = np.clip(np.asarray(outputs, dtype=np.float64), -FARTHEST_LOGIT, FARTHEST_LOGIT)
    with np.errstate(invalid="ignore"):  # what is no number stays none, and its stream will be restarted
        against = [np.logaddexp.reduce(np.delete(wide, k, axis=-1), axis=-1) for k in range(wide.shape[-1])]
    odds: NDArray[np.float64] = wide - np.stack(against, axis=-1)
    return odds
