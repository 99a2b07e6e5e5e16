"""A streaming evaluation as data: what the command prints as JSON, and what the model card reads back."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import msgspec

from edge.errors import RecordError
from edge.runtime.manifest import OperatingPoint
from trainer.report import MeasuredModel
from trainer.stream_evaluation.auc import Auc
from trainer.streams.curve import CurvePoint
from trainer.streams.tune import ClassAlertFigures


class WarmRow(msgspec.Struct, frozen=True):
    """Records at their second 10 after so many minutes of other patients' ECG; 0 is a cold start."""

    minutes: float
    auc: Auc
    ready_share: float
    """Share of the records whose score a device would rely on then; less than all where the state is in doubt."""


class SecondsRow(msgspec.Struct, frozen=True):
    """Records so many seconds after they began."""

    seconds: float
    cold: Auc
    warm: Auc | None
    """After `after_minutes` of other patients' ECG, which is still in the window until it has passed."""


class WindowRow(msgspec.Struct, frozen=True):
    """Whole records, were the window served in another way."""

    window_s: float
    hop_s: float
    vote_s: float
    votes: int
    auc: Auc


class ClassAlerts(msgspec.Struct, frozen=True):
    """One class's operating point and what it does."""

    point: OperatingPoint
    figures: ClassAlertFigures
    curve: list[CurvePoint] = []
    """What other thresholds would do."""


class AlertsPart(msgspec.Struct, frozen=True):
    """The bundle's alerts on streams with known switches, by the daemon's own decision code."""

    stream_hours: dict[str, float]
    """Hours in which alerts could be raised, by kind of streams (see `trainer.streams.plan`)."""
    patient_s: float
    per_class: dict[str, ClassAlerts]


class RobustnessRow(msgspec.Struct, frozen=True):
    """Records made worse in one way."""

    name: str
    level: float
    unit: str
    auc: Auc
    decided_share: float
    """Share of the records at whose end class alerts are decided; for the others signal quality freezes them."""


class GroupRow(msgspec.Struct, frozen=True):
    """The records of one group of people."""

    by: str
    group: str
    auc: Auc


class StreamEvaluation(msgspec.Struct, frozen=True, kw_only=True):
    """All of it; a part that was not asked for is null."""

    kind: Literal["stream-evaluate"] = "stream-evaluate"
    bundle: MeasuredModel
    data: str
    folds: list[int]
    n_records: int
    classes: list[str]
    date: str
    command: str
    runtime: str
    seed: int
    joins: str
    replicates: int
    warm_streams: int
    after_minutes: float
    """How warm the streams of `seconds` and `groups` are."""
    warm: list[WarmRow] | None = None
    seconds: list[SecondsRow] | None = None
    alerts: AlertsPart | None = None
    robustness: list[RobustnessRow] | None = None
    groups: list[GroupRow] | None = None
    windows: list[WindowRow] | None = None
    notes: list[str] = []
    plots: list[str] = []
    took_s: float = 0.0


def read_evaluation(path: Path) -> StreamEvaluation | None:
    """Read what `ecg-trainer stream-evaluate --json` printed, or None when a JSON file is something else's.

    Raises RecordError when the file cannot be read.
    """
    try:
        content = msgspec.json.decode(path.read_bytes())
        if not isinstance(content, dict) or content.get("kind") != "stream-evaluate":
            return None
        return msgspec.convert(content, StreamEvaluation)
    except (OSError, msgspec.MsgspecError) as error:
        raise RecordError(f"evaluation {path} cannot be read: {error}") from None
