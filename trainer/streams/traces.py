"""What a bundle says of planned streams, hop by hop, with what is needed to decide alerts on it; kept in a cache."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass

import msgspec
import numpy as np
from numpy.typing import NDArray

from edge.runtime.base import Runtime, calibrated
from edge.runtime.bundle import Bundle
from edge.runtime.manifest import Calibration
from edge.signal.leads import STANDARD_LEADS, LeadMap
from edge.signal.quality import QualityAssessor
from trainer.data import records_mv
from trainer.progress import progress
from trainer.ptbxl import PtbXl
from trainer.streams.cache import Arrays, cached_arrays
from trainer.streams.plan import HALVES, HEALTHY_STREAMS, Plan, PlanSettings, plan_streams
from trainer.streams.play import RECORD_S, hops_per_record, play_all

FloatArray = NDArray[np.float64]
BoolArray = NDArray[np.bool_]
Rows = NDArray[np.int64]

FORMAT = 3


@dataclass(frozen=True)
class Trace:
    """One stream after it was scored."""

    plan: Plan
    logits: NDArray[np.float32]  # (hops, classes)
    ready: BoolArray  # (hops,) a window has been seen, and the state is not in doubt
    good: BoolArray  # (hops,) the quality of each hop allows decisions
    hop_s: float

    @property
    def hours(self) -> float:
        """How long alerts could be raised."""
        return float(self.ready.sum()) * self.hop_s / 3600.0

    def probabilities(self, calibration: Calibration) -> FloatArray:
        """Return calibrated probabilities (hops, classes)."""
        return calibrated(calibration, self.logits)

    def hop_of_turn(self, turn: int) -> int:
        """Return the first hop of a turn."""
        return round(turn * RECORD_S / self.hop_s)


@dataclass(frozen=True)
class Streams:
    """Scored streams and how they were made."""

    traces: list[Trace]
    settings: PlanSettings
    joins: str

    def of(self, kind: str | None = None, half: int | None = None) -> list[Trace]:
        """Return the streams of one kind, of one half of the patients, or both."""
        return [t for t in self.traces if kind in (None, t.plan.kind) and half in (None, t.plan.half)]


def score_streams(runtime: Runtime, data: PtbXl, rows: Rows, settings: PlanSettings, joins: str = "matched") -> Streams:
    """Play the streams that these records make, or take what the same model made of them before.

    There are none where a half of the patients has too few healthy records to fill a window with.
    """
    bundle = runtime.bundle
    hops = hops_per_record(bundle)
    plans = plan_streams(data, rows, settings)
    if not plans:
        return Streams([], settings, joins)
    played = [data.ecg_ids[plan.rows].tolist() for plan in plans]  # which goes by the labels too
    monitor = msgspec.to_builtins(bundle.manifest.state_monitor)  # what is ready goes by it
    facts = [FORMAT, bundle.manifest.state_hash, monitor, runtime.name, played, asdict(settings), joins]
    stored = cached_arrays("streams", facts, lambda: _play(runtime, data, plans, joins))
    ends = np.cumsum([len(plan.rows) * hops for plan in plans])[:-1]
    good = good_hops(bundle, data, rows)
    traces = [
        Trace(plan, logits, ready, np.concatenate([good[row] for row in plan.rows.tolist()]), bundle.manifest.hop_s)
        for plan, logits, ready in zip(
            plans, np.split(stored["logits"], ends), np.split(stored["ready"], ends), strict=True
        )
    ]  # fmt: skip
    streams = Streams(traces, settings, joins)
    enough = all(any(t.ready.any() for t in streams.of(kind, half)) for kind in HEALTHY_STREAMS for half in HALVES)
    return streams if enough else Streams([], settings, joins)


def good_hops(bundle: Bundle, data: PtbXl, rows: Rows) -> dict[int, BoolArray]:
    """Return for each record whether its hops can be relied on, as the daemon judges them, row → (hops,).

    A hop is judged by itself and a shift of its level changes nothing, so this holds wherever a record is played.
    """
    manifest = bundle.manifest
    leads = LeadMap.between(STANDARD_LEADS, manifest.leads)
    assessor = QualityAssessor(manifest.leads, manifest.signal.rate_hz)
    valid = np.zeros((manifest.hop_samples, len(manifest.leads)), dtype=bool)
    good = {}
    for row in rows.tolist():
        record_mv = leads.select(records_mv(data, np.array([row]))[0]).astype(np.float64)
        good[row] = np.array([assessor.assess(hop, valid).good for hop in record_mv.reshape(-1, *valid.shape)])
    return good


def _play(runtime: Runtime, data: PtbXl, plans: Sequence[Plan], joins: str) -> Arrays:
    with progress() as bar:
        task = bar.add_task("playing streams", total=sum(len(plan.rows) for plan in plans))
        said = play_all(runtime, data, [plan.rows for plan in plans], joins, lambda n: bar.advance(task, n))
    together = [np.concatenate([of_stream[k][0] for of_stream in said]) for k in range(2)]
    return {"logits": together[0], "ready": together[1]}
