"""The streaming evaluation, part by part."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from edge.runtime.base import Runtime, calibrated
from trainer.checkpoint import model_from_bundle
from trainer.model import EcgMamba
from trainer.predict import filtered_blocks, labels_of
from trainer.progress import progress
from trainer.ptbxl import PtbXl
from trainer.stream_evaluation.auc import Auc, compare
from trainer.stream_evaluation.groups import group_rows
from trainer.stream_evaluation.result import (
    AlertsPart,
    ClassAlerts,
    GroupRow,
    RobustnessRow,
    SecondsRow,
    WarmRow,
    WindowRow,
)
from trainer.stream_evaluation.robustness import conditions, score_under
from trainer.stream_evaluation.windows import cuts_of, logits_by_cut
from trainer.streams.alerts import policy_of, replay_all
from trainer.streams.curve import operating_curve
from trainer.streams.plan import HEALTHY_STREAMS, PlanSettings
from trainer.streams.play import OnProgress, Said
from trainer.streams.traces import score_streams
from trainer.streams.tune import figures_of
from trainer.streams.warm import pasts, random_playlists, score_after, score_cold, strangers, turns_of

FloatArray = NDArray[np.float64]
Float32Array = NDArray[np.float32]
Rows = NDArray[np.int64]

PARTS = ("warm", "seconds", "groups", "windows", "alerts", "robustness")


@dataclass(frozen=True)
class Amount:
    """How much is measured."""

    minutes: tuple[float, ...] = (0.5, 1.0, 10.0, 60.0)
    after_minutes: float = 10.0
    streams: int = 32
    robustness_records: int = 400
    plan: PlanSettings = field(default_factory=PlanSettings)
    quick: bool = False
    max_records: int | None = None


FULL = Amount()
QUICK = Amount(
    minutes=(0.5, 1.0), after_minutes=1.0, streams=8, robustness_records=64,
    plan=PlanSettings(passes=1, patient_s=30.0), quick=True, max_records=128,
)  # fmt: skip


@dataclass(frozen=True)
class Evaluation:
    """What is measured with what. Every part scores for itself, but for the logits that several share."""

    runtime: Runtime
    data: PtbXl
    rows: Rows
    amount: Amount
    seed: int
    joins: str
    replicates: int

    @property
    def classes(self) -> list[str]:
        """The model's classes."""
        return self.runtime.bundle.manifest.classes

    def labels(self, rows: Rows) -> Float32Array:
        """Return labels (records, classes) in the model's order."""
        return labels_of(self.runtime.bundle, self.data, rows)

    def scored(self, minutes: Sequence[float]) -> dict[float, Said]:
        """Return what is said of every record cold (0) and after so many minutes of other ECG."""
        amount, data, rows = self.amount, self.data, self.rows
        playlists = random_playlists(rows, amount.streams, max(minutes, default=0.0), self.seed)
        chosen = strangers(data, rows, playlists, self.seed)
        total = len(rows) * (1 + len(minutes)) + len(playlists) * turns_of(max(minutes, default=0.0))
        with _advancing("cold and warm", total) as advance:
            said = {0.0: score_cold(self.runtime, data, rows, self.joins, advance)}
            for past in pasts(self.runtime, data, playlists, minutes, self.joins, advance):
                said[past.minutes] = score_after(self.runtime, data, rows, past, chosen, advance)
        return said

    def compared(self, rows: Rows, ways: Sequence[Float32Array], replicates: int | None = None) -> list[Auc]:
        """Measure logits (records, classes) of the same records, calibrated as they are published."""
        published = [self.published(logits) for logits in ways]
        drawn = self.replicates if replicates is None else replicates
        return compare(self.labels(rows), published, self.classes, drawn)

    def published(self, logits: Float32Array) -> FloatArray:
        """Return the probabilities of logits (..., classes)."""
        return calibrated(self.runtime.bundle.manifest.calibration, logits)

    def warm(self, said: dict[float, Said]) -> list[WarmRow]:
        """Measure every record at its last second, cold and after each time."""
        found = self.compared(self.rows, [of_time.logits[:, -1] for of_time in said.values()])
        return [
            WarmRow(minutes, auc, float(of_time.ready[:, -1].mean()))
            for (minutes, of_time), auc in zip(said.items(), found, strict=True)
        ]

    def seconds(self, said: dict[float, Said]) -> list[SecondsRow]:
        """Measure every record at each of its hops, cold and warm."""
        hop_s = self.runtime.bundle.manifest.hop_s
        cold, warm = said[0.0].logits, said[self.amount.after_minutes].logits
        rows = []
        for hop in range(cold.shape[1]):
            at_cold, at_warm = (self.compared(self.rows, [of_time[:, hop]], 0)[0] for of_time in (cold, warm))
            rows.append(SecondsRow(round((hop + 1) * hop_s, 6), at_cold, at_warm))
        return rows

    def groups(self, said: dict[float, Said]) -> list[GroupRow]:
        """Measure groups by sex and age, on warm streams."""
        scores = self.published(said[self.amount.after_minutes].logits[:, -1])
        labels = self.labels(self.rows)
        return group_rows(self.data, self.rows, labels, scores, self.classes, self.replicates)

    def windows(self) -> list[WindowRow]:
        """Measure what the network by itself says of whole records, served in one way and another."""
        bundle = self.runtime.bundle
        model, rate_hz = model_from_bundle(bundle), bundle.manifest.signal.rate_hz
        if not isinstance(model, EcgMamba):
            return []
        cuts = cuts_of(model.config, rate_hz)
        blocks = []
        with _advancing("windows", len(self.rows)) as advance:
            for signals in filtered_blocks(bundle, self.data, self.rows):
                blocks.append(logits_by_cut(model, signals, cuts, rate_hz))
                advance(len(signals))
        ways = [np.concatenate(parts) for parts in zip(*blocks, strict=True)]
        found = compare(self.labels(self.rows), ways, self.classes, self.replicates)
        return [
            WindowRow(cut.window_s, cut.hop_s, cut.vote_s, cut.votes, auc) for cut, auc in zip(cuts, found, strict=True)
        ]

    def alerts(self) -> AlertsPart | None:
        """Measure the bundle's operating points on streams with known switches; None without healthy records."""
        settings = replace(self.amount.plan, seed=self.seed)
        streams = score_streams(self.runtime, self.data, self.rows, settings, self.joins)
        if not streams.traces:
            return None
        manifest = self.runtime.bundle.manifest
        replayed, points = replay_all(manifest, streams), manifest.operating_points
        return AlertsPart(
            stream_hours={kind: sum(trace.hours for trace in streams.of(kind)) for kind in HEALTHY_STREAMS},
            patient_s=settings.patient_s,
            per_class={
                name: ClassAlerts(points[name], figures_of(replayed, name), operating_curve(manifest, streams, name))
                for name in policy_of(manifest).alerting
            },
        )

    def robustness(self, nstdb: Path | None) -> list[RobustnessRow]:
        """Measure records made worse, against the same records as they are."""
        order = np.random.default_rng(self.seed).permutation(len(self.rows))
        rows = np.sort(self.rows[order[: self.amount.robustness_records]])
        policy = policy_of(self.runtime.bundle.manifest)
        tried = conditions(nstdb, self.amount.quick)
        with _advancing("robustness", len(tried) * len(rows)) as advance:
            scored = [score_under(condition, self.runtime, self.data, rows, policy, advance) for condition in tried]
        found = self.compared(rows, [of_condition.logits for of_condition in scored])
        return [
            RobustnessRow(condition.name, condition.level, condition.unit, auc, float(of_condition.decided.mean()))
            for condition, of_condition, auc in zip(tried, scored, found, strict=True)
        ]


def chosen_rows(data: PtbXl, folds: Sequence[int], amount: Amount, seed: int) -> Rows:
    """Return the records to measure: those of the folds, or so many random ones of them."""
    rows = data.rows(folds)
    if amount.max_records is None:
        return rows
    return np.sort(np.random.default_rng(seed).permutation(rows)[: amount.max_records])


@contextmanager
def _advancing(words: str, total: int) -> Iterator[OnProgress]:
    with progress() as bar:
        task = bar.add_task(words, total=total)
        yield lambda records: bar.advance(task, records)
