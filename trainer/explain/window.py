"""What a model was given of one window of a recording, and the state it had when the window began."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from msgspec.structs import replace
from numpy.typing import NDArray
from torch import Tensor

from edge.errors import RecordError
from edge.monitor.offline import recording_runs
from edge.replay.records import Recording
from edge.signal.frontend import Frontend
from edge.signal.leads import LeadMap
from edge.stream.runs import Run
from trainer.explain.subject import Subject
from trainer.model import EcgMamba, State
from trainer.votes import logits_after

FloatArray = NDArray[np.float64]

STATE_BLOCK_HOPS = 10
"""How much of the past goes through a model at once."""


@dataclass(frozen=True)
class SeenWindow:
    """One window as a stream that began at sample `start` of the recording would have met it."""

    subject: Subject
    x: Tensor
    """(1, samples, leads) model input."""
    state: State
    """Before the window; held fixed, so that what is explained is the window."""
    first_s: float
    """When the window begins, in seconds of the recording."""
    first_index: int
    last_index: int
    """Samples of the recording, both included, counted as an alert counts them."""

    @property
    def samples_mv(self) -> FloatArray:
        """The ECG that the model was given, filtered, (samples, leads)."""
        signal = self.subject.signal
        seen: FloatArray = self.x[0].numpy().astype(np.float64) * signal.std_mv + signal.mean_mv
        return seen

    @property
    def seconds(self) -> float:
        """How long the window is: less than the model's until a stream has run for so long."""
        return self.x.shape[1] / self.subject.signal.rate_hz

    def logits_of(self, x: Tensor) -> Tensor:
        """Return the logits (B, classes) of other contents of this window (B, samples, leads), from the same state."""
        state = {name: carried.expand(len(x), *carried.shape[1:]) for name, carried in self.state.items()}
        model = self.subject.model
        if isinstance(model, EcgMamba):  # all hops of the window at once, as they end up one by one
            return logits_after(model, x, state)
        return model(x, state)[0]  # type: ignore[no-any-return]

    def evidence_of(self, x: Tensor) -> Tensor:
        """Return the calibrated logits (B, classes) of such contents: what the published probabilities rest on."""
        return self.subject.calibrated_logits(self.logits_of(x))

    @torch.inference_mode()
    def logits(self) -> NDArray[np.float32]:
        """Return the logits (classes,) of the window as it was."""
        return self.logits_of(self.x)[0].numpy()

    def flat(self) -> Tensor:
        """Return the window of a patient without a heartbeat: 0 mV in all leads, as model input."""
        signal = self.subject.signal
        level = -np.asarray(signal.mean_mv) / np.asarray(signal.std_mv)
        return torch.from_numpy(level.astype(np.float32)).expand_as(self.x).contiguous()


def window_at(subject: Subject, recording: Recording, last_index: int | None = None, start: int = 0) -> SeenWindow:
    """Return the window that ends with the last whole hop up to a sample of the recording: by default to its end.

    The stream starts cold at sample `start`, and afresh where a device would: a lead comes back after having been away
    for long. Everything from there on has passed the device's front-end and, before the window, the model. Raises
    RecordError when not a single hop is there, LeadsError and SignalError as a stream would.
    """
    available = len(recording.samples_mv) - 1
    last = available if last_index is None else last_index
    if last > available:
        raise RecordError(f"{recording.name} ends after {recording.seconds:g} s, before the window does")
    run = _run_with_a_hop(subject, recording, start, last)
    start = run.index
    hops = hops_until(subject, recording.rate_hz, run.end - 1 - start)
    last = start + last_of_hop(subject, recording.rate_hz, hops)
    frames = _frames(subject, recording, run.samples_mv[: last + 1 - start])
    rate_hz, before = subject.signal.rate_hz, max(0, hops * subject.hop_samples - subject.window_samples)
    x = torch.from_numpy(frames)[None]
    return SeenWindow(
        subject=subject,
        x=x[:, before:].contiguous(),
        state=_state_after(subject, x[:, :before]),
        first_s=start / recording.rate_hz + before / rate_hz,
        first_index=max(start, last + 1 - round(subject.window_samples / rate_hz * recording.rate_hz)),
        last_index=last,
    )


def last_of_hop(subject: Subject, rate_hz: int, hops: int) -> int:
    """Return the sample of a stream, from 0, that completes its hops-th hop."""
    return (hops * subject.hop_samples - 1) * rate_hz // subject.signal.rate_hz


def hops_until(subject: Subject, rate_hz: int, index: int) -> int:
    """Return how many hops a stream's samples 0 … index complete."""
    guess = (index + 1) * subject.signal.rate_hz // (rate_hz * subject.hop_samples) + 1
    return next((hops for hops in range(guess, 0, -1) if last_of_hop(subject, rate_hz, hops) <= index), 0)


def runs_until(subject: Subject, recording: Recording, start: int, last: int) -> list[Run]:
    """Return the pieces into which a stream of samples start … last falls, each begun with nothing carried over."""
    LeadMap.between(recording.leads, subject.leads)  # raises LeadsError
    runs = recording_runs(
        recording.samples_mv[start : last + 1], recording.rate_hz, recording.leads, tuple(subject.leads)
    )
    return [replace(run, index=start + run.index) for run in runs]


def _run_with_a_hop(subject: Subject, recording: Recording, start: int, last: int) -> Run:
    """Return the piece of the stream of samples start … last that its last hop belongs to."""
    for run in reversed(runs_until(subject, recording, start, last)):
        if hops_until(subject, recording.rate_hz, run.end - 1 - run.index):
            return run
    hop_s = subject.hop_samples / subject.signal.rate_hz
    raise RecordError(f"{recording.name}: less than a hop of {hop_s:g} s comes before the end of the window")


def _frames(subject: Subject, recording: Recording, samples_mv: FloatArray) -> NDArray[np.float32]:
    """Return the model's input, (samples, leads), of samples of the recording with nothing invalid left."""
    selected_mv = LeadMap.between(recording.leads, subject.leads).select(samples_mv)
    return Frontend(subject.signal.frontend(), recording.rate_hz).process(selected_mv).model_input


@torch.inference_mode()
def _state_after(subject: Subject, before: Tensor) -> State:
    """Run the stream up to the window, (1, samples, leads).

    Returns copies, because tensors of inference mode cannot take part in a gradient.
    """
    state = subject.model.initial_state(1)
    for block in torch.split(before, STATE_BLOCK_HOPS * subject.hop_samples, dim=1):
        if block.shape[1]:
            _, state = subject.model(block, state)
    with torch.inference_mode(False):
        return {name: carried.clone() for name, carried in state.items()}
