"""What a model card is made of, read from a bundle and from what the evaluation commands printed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec

from edge.errors import RecordError
from edge.runtime.bundle import Bundle
from edge.runtime.manifest import Manifest
from trainer.bootstrap import Intervals
from trainer.metrics import Figures
from trainer.report import MeasuredModel, Measurement, Sheet
from trainer.stream_evaluation.result import GroupRow, StreamEvaluation, read_evaluation
from trainer.streams.tune import AlertTuning


class Printed(msgspec.Struct, frozen=True):
    """What `ecg-trainer evaluate --json` printed beside the figures."""

    mode: str
    folds: list[int]
    per_class: dict[str, Any]
    bundle: MeasuredModel | None = None
    intervals: Intervals | None = None
    groups: list[GroupRow] = []
    notes: list[str] = []
    plots: list[str] = []
    command: str = ""
    date: str = ""


@dataclass(frozen=True)
class Evaluated:
    """An evaluation of whole records."""

    printed: Printed
    measurement: Measurement


@dataclass(frozen=True)
class Evaluations:
    """Evaluations of whole records and of streams, in the order they were given."""

    records: list[Evaluated]
    streams: list[StreamEvaluation]


@dataclass(frozen=True)
class Sources:
    """Everything a card is made of."""

    bundle: Bundle
    own: Evaluations
    seeds: Evaluations
    """Of models that the same recipe gave with other seeds."""
    tables: list[Sheet]
    facts: dict[str, str] = field(default_factory=dict)
    """What the manifest does not say, for the head of the card."""

    @property
    def manifest(self) -> Manifest:
        """The bundle's manifest."""
        return self.bundle.manifest


def read_sources(
    bundle: Bundle, evaluations: Sequence[Path], seeds: Sequence[Path] = (), tables: Sequence[Path] = ()
) -> Sources:
    """Read the JSON files of evaluations, of those of other seeds, and of further tables.

    Raises RecordError when one cannot be read, or when an evaluation is of another model than the bundle's.
    """
    own = _read_evaluations(evaluations)
    for path, measured in zip(evaluations, own.values(), strict=True):
        model = measured.bundle if isinstance(measured, StreamEvaluation) else measured.printed.bundle
        if model is not None and model.hash != bundle.manifest.model_hash:
            raise RecordError(f"{path} was measured with another model; run the evaluation again with this bundle")
    others = _read_evaluations(seeds)
    return Sources(bundle, _sorted(own), _sorted(others), [_read(path, Sheet) for path in tables])


def tuned_figures(manifest: Manifest) -> Evaluated | None:
    """Return the figures that `ecg-trainer tune` wrote into the manifest, or None when it did not."""
    metrics = manifest.metrics
    if "per_class" not in metrics:
        return None
    printed = msgspec.convert(metrics, Printed)
    return Evaluated(printed, Measurement(msgspec.convert(metrics, Figures), printed.intervals))


def alert_tuning(manifest: Manifest) -> AlertTuning | None:
    """Return what `ecg-trainer tune` found on streams, or None when the bundle was not tuned so."""
    found = manifest.metrics.get("alerts")
    return None if found is None else msgspec.convert(found, AlertTuning)


def _read_evaluations(paths: Sequence[Path]) -> dict[Path, Evaluated | StreamEvaluation]:
    found: dict[Path, Evaluated | StreamEvaluation] = {}
    for path in paths:
        streamed = read_evaluation(path)
        if streamed is not None:
            found[path] = streamed
        else:
            printed = _read(path, Printed)
            found[path] = Evaluated(printed, Measurement(_read(path, Figures), printed.intervals))
    return found


def _sorted(found: dict[Path, Evaluated | StreamEvaluation]) -> Evaluations:
    return Evaluations(
        [measured for measured in found.values() if isinstance(measured, Evaluated)],
        [measured for measured in found.values() if isinstance(measured, StreamEvaluation)],
    )


def _read(path: Path, kind: type[Any]) -> Any:
    try:
        return msgspec.json.decode(path.read_bytes(), type=kind)
    except (OSError, msgspec.MsgspecError) as error:
        raise RecordError(f"{path} cannot be read as {kind.__name__}: {error}") from None
