"""The manifest of a model bundle: everything a device must know about a model, checked when it is read."""

from __future__ import annotations

import hashlib
import math
import re
from typing import Annotated, Literal

import msgspec
import numpy as np

from edge.signal.frontend import FrontendSpec
from edge.signal.lead_quality import MIN_HOP_SAMPLES
from edge.signal.leads import STANDARD_LEADS

MANIFEST_NAME = "manifest.json"
ONNX_NAME = "model.onnx"
WEIGHTS_NAME = "model.safetensors"

RECURRENT, WINDOWED = "recurrent", "windowed"
KINDS = (RECURRENT, WINDOWED)
"""How a bundle's graph works: it takes a hop and carries state, or it takes the whole window anew at every hop."""

WINDOW = "window"
"""The one state of a windowed bundle: the samples of the window, which its graph takes as `x`."""

GRAPHS = {"fp32": ONNX_NAME, "fp16": "model_fp16.onnx"}
"""Precision of the projections → the file that holds the graph. A bundle needs only the first; TensorRT takes both."""

NAME_PATTERN = r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}\Z"
Name = Annotated[str, msgspec.Meta(pattern=NAME_PATTERN)]
Probability = Annotated[float, msgspec.Meta(ge=0.0, le=1.0)]
Sha256 = Annotated[str, msgspec.Meta(pattern=r"^[0-9a-f]{64}\Z")]


class SignalSpec(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The front-end the model was trained behind (see `edge.signal.frontend`)."""

    rate_hz: Annotated[int, msgspec.Meta(ge=50, le=1000)]
    band_hz: tuple[float, float]
    sos: list[tuple[float, float, float, float, float, float]]
    mean_mv: list[float]
    std_mv: list[float]

    @property
    def settles(self) -> bool:
        """Whether every section is normalised and forgets: both poles within the unit circle.

        The triangle of Jury's criterion for 1 + a1 z⁻¹ + a2 z⁻²: |a2| < 1 and |a1| < 1 + a2.
        """
        return all(a0 == 1.0 and abs(a2) < 1.0 and abs(a1) < 1.0 + a2 for *_, a0, a1, a2 in self.sos)

    def frontend(self) -> FrontendSpec:
        """Return the front-end's specification as arrays."""
        return FrontendSpec(
            rate_hz=self.rate_hz,
            sos=np.array(self.sos, dtype=np.float64),
            mean_mv=np.array(self.mean_mv, dtype=np.float64),
            std_mv=np.array(self.std_mv, dtype=np.float64),
        )


class StateTensor(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One carried tensor of a stream, which starts at `init`; a recurrent graph takes `name` and gives `name_out`."""

    name: Name
    shape: list[Annotated[int, msgspec.Meta(ge=1, le=65536)]]
    init: float = 0.0
    dtype: Literal["float32"] = "float32"


def window_tensor(samples: int, leads: int) -> StateTensor:
    """Return the state of a windowed bundle, which starts as silence."""
    return StateTensor(WINDOW, [samples, leads])


class Calibration(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """From logits to probabilities: of class k, sigmoid(scale[k] · logit[k] + Σ others[k][j] · logit[j] + bias[k])."""

    scale: list[float]
    bias: list[float]
    others: list[list[float]] = []
    """How much each other class adds, 0 for its own; empty where every class is calibrated by itself."""
    softmax: bool = False
    """Whether the model knows one label a record: what stands for a logit here is then a class's log-odds against all
    others, so that without scale and bias the probabilities are those of the softmax."""


class OperatingPoint(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """When a class is called: `f1_threshold` for reports, {on, off, dwell_s} for alerts."""

    f1_threshold: Probability
    on: Probability
    off: Probability
    dwell_s: Annotated[float, msgspec.Meta(ge=0.0, le=3600.0)]


class StateRange(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """How large one carried tensor gets on ECG like the model's own: percentiles of its root mean square."""

    p50: float
    p99: float
    p99_9: float
    max: float
    limit: float
    """Above this the tensor is out of range."""

    @property
    def rises(self) -> bool:
        """Whether the figures are positive, finite and in order."""
        figures = [self.p50, self.p99, self.p99_9, self.max, self.limit]
        return figures[0] > 0 and figures == sorted(figures) and math.isfinite(figures[-1])


class StateMonitor(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What carried state is watched by (see `edge.runtime.state_monitor`): tensor → range, and how it was found."""

    tensors: Annotated[dict[Name, StateRange], msgspec.Meta(min_length=1, max_length=256)]
    measured: dict[str, object] = {}


class Manifest(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """What `manifest.json` holds. Lengths of lists follow `classes` and `leads`; `problems` checks them."""

    schema: Literal[1] = 1
    kind: Name = RECURRENT
    name: Name
    version: Name
    notice: str
    classes: Annotated[list[Name], msgspec.Meta(min_length=1, max_length=256)]
    leads: Annotated[list[Name], msgspec.Meta(min_length=1, max_length=12)]
    signal: SignalSpec
    stride: Annotated[int, msgspec.Meta(ge=1, le=64)]
    window_s: Annotated[float, msgspec.Meta(gt=0.0, le=600.0)]
    hop_s: Annotated[float, msgspec.Meta(gt=0.0, le=60.0)]
    vote_hops: Annotated[int, msgspec.Meta(ge=0)] = 0
    """Hops that a logit is pooled over where that is not the window: a vote. The window's score is its votes' mean."""
    state: list[StateTensor]
    state_monitor: StateMonitor | None = None
    calibration: Calibration
    operating_points: dict[str, OperatingPoint]
    metrics: dict[str, object] = {}
    training: dict[str, object] = {}
    model: dict[str, object] = {}
    files: dict[str, Sha256]

    @property
    def hop_samples(self) -> int:
        """Samples per hop at the model's rate."""
        return round(self.hop_s * self.signal.rate_hz)

    @property
    def window_samples(self) -> int:
        """Samples per window at the model's rate."""
        return round(self.window_s * self.signal.rate_hz)

    @property
    def window_hops(self) -> int:
        """Hops a window holds: a stream is warming until it has seen as many."""
        return self.window_samples // self.hop_samples

    @property
    def pooled_hops(self) -> int:
        """Hops that the logits of a step are pooled over."""
        return self.vote_hops or self.window_hops

    @property
    def votes(self) -> int:
        """Votes that a window's score is the mean of: those of all its runs of `pooled_hops`."""
        return self.window_hops - self.pooled_hops + 1

    @property
    def model_hash(self) -> str:
        """SHA-256 of `model.onnx`: what a score, an alert and the model card name the model by.

        It says nothing of the rest, the weights that the native runtime reads, calibration and thresholds; what carried
        state depends on is `state_hash`.
        """
        return self.files[ONNX_NAME]

    @property
    def state_hash(self) -> str:
        """SHA-256 of all that decides what a stream's carried state means: a state goes on where this is the same.

        Graph and weights, what they are fed, and how hops make windows. Neither calibration nor thresholds, which come
        after the state, nor the float16 graph, which carries the same.
        """
        facts: list[object] = [self.files[ONNX_NAME], self.files.get(WEIGHTS_NAME), self.kind, self.classes]
        facts += [self.leads, self.signal, self.stride, self.window_s, self.hop_s, self.vote_hops, self.state]
        return hashlib.sha256(msgspec.json.encode(facts)).hexdigest()

    def frontend(self) -> FrontendSpec:
        """Return the front-end's specification as arrays."""
        return self.signal.frontend()

    def problems(self) -> list[str]:
        """Return what the types alone cannot tell is wrong, one line each."""
        return [message for wrong, message in self._checks() if wrong]

    @property
    def _watched(self) -> dict[str, StateRange]:
        return {} if self.state_monitor is None else self.state_monitor.tensors

    def _checks(self) -> list[tuple[bool, str]]:
        leads, classes = len(self.leads), len(self.classes)
        signal, calibration = self.signal, self.calibration
        numbers = [*signal.mean_mv, *signal.std_mv, *calibration.scale, *calibration.bias, *sum(signal.sos, ())]
        numbers += [weight for row in calibration.others for weight in row]
        return [
            (self.kind not in KINDS, f"kind is {self.kind}, and this ecg-edge knows {' and '.join(KINDS)}"),
            (any(lead not in STANDARD_LEADS for lead in self.leads), "leads has a name that is not a standard lead"),
            (len(set(self.leads)) != leads or len(set(self.classes)) != classes, "leads or classes name one twice"),
            (
                len(signal.mean_mv) != leads or len(signal.std_mv) != leads,
                "signal.mean_mv and std_mv go by lead",
            ),
            (len(calibration.scale) != classes or len(calibration.bias) != classes, "calibration needs one per class"),
            (
                [len(row) for row in calibration.others] not in ([], [classes] * classes),
                "calibration.others needs a row and a column per class, or nothing",
            ),
            (calibration.softmax and classes < 2, "calibration.softmax chooses between classes, and there is one"),
            (calibration.softmax and self.vote_hops > 0, "calibration.softmax and vote_hops do not go together"),
            (not all(math.isfinite(n) for n in numbers), "a number is not finite"),
            (any(std <= 0 for std in signal.std_mv), "signal.std_mv must be positive"),
            (not signal.sos, "signal.sos is empty"),
            (not signal.settles, "a section of signal.sos is not normalised to a0 = 1 or is not stable"),
            (set(self.operating_points) != set(self.classes), "operating_points must name exactly the classes"),
            (any(p.off > p.on for p in self.operating_points.values()), "an operating point has off above on"),
            (self.hop_samples % self.stride != 0, "hop_s must be a multiple of the stride"),
            (
                self.hop_samples < MIN_HOP_SAMPLES,
                f"hop_s must be {MIN_HOP_SAMPLES} samples or more: fewer tell nothing of a lead's quality",
            ),
            (
                self.window_samples < self.hop_samples
                or (self.hop_samples > 0 and self.window_samples % self.hop_samples != 0),
                "window_s must be whole hops, one at least",
            ),
            (
                self.hop_samples > 0 and self.vote_hops > 0 and not 2 <= self.vote_hops <= self.window_hops,
                "vote_hops must be 0, or from 2 to the hops of a window",
            ),
            (self.kind == WINDOWED and self.vote_hops > 0, "a windowed bundle has no vote_hops"),
            (
                self.kind == RECURRENT and self.model.get("vote_hops", 0) != self.vote_hops,
                "vote_hops is not that of the model",
            ),
            (
                self.kind == WINDOWED and self.state != [window_tensor(self.window_samples, leads)],
                f"the state of a windowed bundle is {WINDOW} alone, with the shape (window samples, leads)",
            ),
            (len({tensor.name for tensor in self.state}) != len(self.state), "state names a tensor twice"),
            (
                not set(self._watched) <= {tensor.name for tensor in self.state},
                "state_monitor names a tensor that is not in state",
            ),
            (
                not all(watched.rises for watched in self._watched.values()),
                "a range of state_monitor must be positive and rise: p50, p99, p99_9, max, limit",
            ),
            (ONNX_NAME not in self.files, f"files must list {ONNX_NAME}"),
            (
                self.kind == RECURRENT and WEIGHTS_NAME not in self.files,
                f"files of a recurrent bundle must list {WEIGHTS_NAME}",
            ),
            (any(re.match(NAME_PATTERN, name) is None for name in self.files), "files has an unsafe name"),
        ]
