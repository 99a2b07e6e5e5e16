"""What a bundle says of whole records, by two ways that must agree: PyTorch at once, or hop by hop as on a device."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from edge.errors import BundleError
from edge.monitor.offline import BATCH_STREAMS, score_recordings
from edge.runtime.base import Runtime
from edge.runtime.bundle import Bundle
from edge.runtime.manifest import Manifest
from edge.runtime.select import open_runtime
from edge.signal.frontend import process_records
from edge.signal.leads import STANDARD_LEADS, LeadMap
from trainer.checkpoint import model_from_bundle
from trainer.data import records_mv
from trainer.kinds import record_logits
from trainer.progress import progress
from trainer.ptbxl import RATE_HZ, PtbXl
from trainer.streams.cache import cached_arrays
from trainer.tasks import TaskPreset, open_task

Float32Array = NDArray[np.float32]
Rows = NDArray[np.int64]
OnProgress = Callable[[int], None]
"""Told how many records are done since it was told last."""

MODES = ("batch", "stream")
BATCH_RECORDS = 128
TABLE_HELP = "the table of labels, for a model that was trained on one"


@dataclass(frozen=True)
class Scored:
    """Logits (records, classes) and what computed them."""

    logits: Float32Array
    runtime: str


def score(bundle: Bundle, data: PtbXl, rows: Rows, mode: str, runtime_name: str = "auto") -> Scored:
    """Score records in one of MODES, with progress on standard error.

    `runtime_name` is what streams run on (see `edge.runtime.select`); batch mode is PyTorch.
    """
    with progress() as bar:
        task = bar.add_task(f"scoring, {mode}", total=len(rows))

        def advance(records: int) -> None:
            bar.advance(task, records)

        if mode == "batch":
            return Scored(batch_logits(bundle, data, rows, advance), "pytorch")
        runtime = open_runtime(bundle, runtime_name, os.cpu_count() or 1)
        return Scored(stream_logits(runtime, data, rows, advance), runtime.name)


def cached_logits(bundle: Bundle, data: PtbXl, rows: Rows) -> Float32Array:
    """Return the logits (records, classes) of whole records in PyTorch, or what the same weights gave before."""
    manifest = bundle.manifest
    facts = [manifest.state_hash, manifest.model, data.ecg_ids[rows].tolist()]
    return cached_arrays("records", facts, lambda: {"logits": score(bundle, data, rows, "batch").logits})["logits"]


def batch_logits(bundle: Bundle, data: PtbXl, rows: Rows, on_progress: OnProgress) -> Float32Array:
    """Return the logits (records, classes) of PyTorch's pass over each whole record, from a cold state.

    Raises BundleError when the model does not run at the rate of the records.
    """
    model, parts = model_from_bundle(bundle), []
    for signals in filtered_blocks(bundle, data, rows):
        parts.append(record_logits(model, signals, bundle.manifest.window_samples))
        on_progress(len(signals))
    return np.concatenate(parts)


def filtered_blocks(bundle: Bundle, data: PtbXl, rows: Rows) -> Iterator[Float32Array]:
    """Yield records as the model reads them, (records, samples, leads), some at a time.

    Raises BundleError when the model does not run at the rate of the records.
    """
    manifest = bundle.manifest
    if manifest.signal.rate_hz != RATE_HZ:
        raise BundleError(bundle.path, f"runs at {manifest.signal.rate_hz} Hz; batch mode needs {RATE_HZ}")
    spec, leads = manifest.frontend(), LeadMap.between(STANDARD_LEADS, manifest.leads)
    for block in _blocks(rows, BATCH_RECORDS):
        yield process_records(spec, leads.select(records_mv(data, block)).astype(np.float64))


def stream_logits(runtime: Runtime, data: PtbXl, rows: Rows, on_progress: OnProgress) -> Float32Array:
    """Return the logits (records, classes) at the last hop of each record, streamed from a cold state."""
    parts = []
    for block in _blocks(rows, BATCH_STREAMS):
        scores = score_recordings(runtime, list(records_mv(data, block)), RATE_HZ)
        parts.append(np.stack([hops[-1].logits for hops in scores]))
        on_progress(len(block))
    return np.concatenate(parts)


def open_labelled(bundle: Bundle, root: Path, table: Path | None = None) -> PtbXl:
    """Open a PTB-XL root with labels of the task a bundle's model was trained for: superclasses unless it says other.

    `table` is the user's own table of labels, of which a bundle knows the name alone. Raises BundleError when it is
    wanting or the task is none of the trainer's, and what `trainer.tasks.open_task` does.
    """
    described = task_of(bundle.manifest)
    if described.get("table"):
        if table is None:
            raise BundleError(bundle.path, f"its classes are columns of {described['table']}; name it with --table")
        described["table"] = str(table)
    try:
        return open_task(root, msgspec.convert(described, TaskPreset))
    except msgspec.ValidationError as error:
        raise BundleError(bundle.path, f"the task it was trained for is none of the trainer's: {error}") from None


def task_of(manifest: Manifest) -> dict[str, Any]:
    """Return the settings of the task a model was trained for, of `trainer.tasks.TaskPreset`; none are superclasses."""
    preset = manifest.training.get("preset")
    return dict(preset.get("task", {})) if isinstance(preset, dict) else {}


def labels_of(bundle: Bundle, data: PtbXl, rows: Rows) -> Float32Array:
    """Return the labels (records, classes) in the bundle's order of classes.

    Raises BundleError when the labels do not have a class of the bundle.
    """
    unknown = [name for name in bundle.manifest.classes if name not in data.classes]
    if unknown:
        raise BundleError(
            bundle.path, f"classes {', '.join(unknown)} are not among the labels' {', '.join(data.classes)}"
        )
    return data.labels[rows][:, [data.classes.index(name) for name in bundle.manifest.classes]]


def _blocks(rows: Rows, size: int) -> Iterator[Rows]:
    return (rows[start : start + size] for start in range(0, len(rows), size))
