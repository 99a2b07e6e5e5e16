"""The report of one trained network: all figures with intervals as JSON, plots and a model card in a folder.

RUN/bundle/                 what `ecg-export bundle` makes of it
RUN/report/report.json      as `ecg-trainer evaluate --json` prints, and more
RUN/report/MODEL_CARD.md    with roc.png, precision_recall.png, calibration.png, confusion.png
"""

from __future__ import annotations

import datetime
import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray
from scipy.special import expit

from edge.cli.output import say
from edge.runtime.base import calibrated
from edge.runtime.bundle import Bundle
from edge.runtime.manifest import Manifest
from trainer.batches import whole_frames
from trainer.card.sources import Evaluations, Sources
from trainer.card.write import write_card
from trainer.claims import verdict
from trainer.compare.exporting import bundle_of
from trainer.compare.flops import record_flops
from trainer.compare.runs import Run
from trainer.metrics import figures
from trainer.one_label import each_by_itself, is_single_label
from trainer.plots import write_plots
from trainer.predict import cached_logits, labels_of
from trainer.preset import Preset
from trainer.presets_command import task_name
from trainer.ptbxl import PtbXl
from trainer.report import DATA, Measurement, fold_notes, measure, measured_model
from trainer.stream_evaluation.groups import group_rows
from trainer.train import accuracy
from trainer.tune import Tuning, cross_fit, tune, with_f1_thresholds

Float32Array = NDArray[np.float32]

BUNDLE_NAME = "bundle"
REPORT_FOLDER = "report"
REPORT_NAME = "report.json"
FORMAT = 2
SEED = 0
HALF = 0.5
SOFTMAX_NOTE = "one label a record: figures are of the network's softmax, and of the records that have one"


def task_words(preset: Preset) -> str:
    """Say what a model is asked, and of which records: those of one such task are the same."""
    name = task_name(preset.describe()["task"])
    return f"{name}, one label a record" if is_single_label(preset.training) else name


def reported(
    run: Run, data: PtbXl, folds: Sequence[int], limit: int | None, replicates: int, command: str
) -> tuple[dict[str, Any], Bundle]:
    """Return the report of a run on some folds, and its bundle; what stands in its folder is not made again.

    data: labelled as the run's task says. Raises NotExportedError, and what evaluating a bundle raises.
    """
    bundle = bundle_of(run.checkpoint, run.folder / BUNDLE_NAME, run.name)
    rows = data.rows(folds)[:limit]
    single = is_single_label(run.preset.training)
    if single:
        rows = rows[labels_of(bundle, data, rows).sum(1) == 1]
    labels = labels_of(bundle, data, rows)
    folder = run.folder / REPORT_FOLDER
    facts = [
        FORMAT,
        run.checkpoint.facts.weights_sha256,
        run.epochs,
        list(folds),
        data.ecg_ids[rows].tolist(),
        hashlib.sha256(np.packbits(labels > 0).tobytes()).hexdigest(),
        [msgspec.to_builtins(claim) for claim in run.preset.claims],
        replicates,
        *([SOFTMAX_NOTE] if single else []),
    ]
    identity = hashlib.sha256(json.dumps(facts).encode()).hexdigest()
    report = _read(folder / REPORT_NAME)
    if report.get("identity") != identity:
        say(f"{run.name}: its report, in {folder}")
        report = _report(run, bundle, data, rows, list(folds), replicates, command, identity)
    return report, bundle


def _report(
    run: Run, bundle: Bundle, data: PtbXl, rows: NDArray[np.int64], folds: list[int], replicates: int, command: str,
    identity: str,
) -> dict[str, Any]:  # fmt: skip
    """Measure, draw and write; the JSON comes last, so that a torn report is made again.

    The network's own ranking is measured, of a softmax that of its probabilities; cross-fitted figures are those of
    classes in the light of each other.
    """
    manifest, single = bundle.manifest, is_single_label(run.preset.training)
    labels = labels_of(bundle, data, rows)
    outputs = cached_logits(bundle, data, rows)
    logits = each_by_itself(outputs, run.preset.training)
    tuning = tune(manifest, outputs, labels, together=False)
    tuned = with_f1_thresholds(manifest, tuning)
    tuned = msgspec.structs.replace(tuned, metrics={"tuned_on_folds": folds})
    measurement = measure(tuned, outputs, labels, replicates)
    crossfit = cross_fit(manifest, outputs, labels, data.patient_ids[rows], SEED)
    folder, words = run.folder / REPORT_FOLDER, f"fold {', '.join(map(str, folds))}"
    plots = write_plots(
        folder, f"{run.name}, {words}", labels, calibrated(tuned.calibration, outputs), measurement.figures
    )
    report = {
        "identity": identity,
        **measurement.to_builtins(),
        "macro_f1_at_half": f1_at_half(logits, labels, manifest.classes),
        "macro_auc_crossfit": crossfit.macro_auc,
        "macro_f1_crossfit": crossfit.macro_f1,
        "macro_auprc_crossfit": crossfit.macro_auprc,
        "ece_crossfit": crossfit.ece,
        "crossfit": msgspec.to_builtins(crossfit),
        "accuracy": accuracy(labels, logits) if single else None,
        "groups": msgspec.to_builtins(group_rows(data, rows, labels, logits, manifest.classes, replicates)),
        "calibration": msgspec.to_builtins(tuning.calibration),
        "mode": "batch",
        "runtime": "pytorch",
        "data": DATA,
        "folds": folds,
        "bundle": msgspec.to_builtins(measured_model(manifest)),
        "date": datetime.datetime.now(datetime.timezone.utc).date().isoformat(),
        "command": command,
        "notes": notes_on(measurement, tuning, tuned, folds, run),
        "plots": [path.name for path in plots],
    }
    described = msgspec.structs.replace(tuned, metrics=report)
    nothing = Evaluations([], [])
    write_card(folder, Sources(Bundle(bundle.path, described), nothing, nothing, [], facts_of(run, report)))
    partial = folder / f"{REPORT_NAME}.partial"
    partial.write_bytes(msgspec.json.format(msgspec.json.encode(report)) + b"\n")
    partial.replace(folder / REPORT_NAME)
    return report


def notes_on(measurement: Measurement, tuning: Tuning, tuned: Manifest, folds: list[int], run: Run) -> list[str]:
    """Return what to know of the figures before relying on them."""
    of_softmax = [SOFTMAX_NOTE] if is_single_label(run.preset.training) else []
    return [*measurement.figures.notes, *tuning.notes, *fold_notes(tuned, folds), *run.notes, *of_softmax]


def facts_of(run: Run, report: dict[str, Any]) -> dict[str, str]:
    """Return what the card says first: what it is, what it is asked, and how it was trained."""
    took = "" if run.seconds is None else f" in {run.seconds / 60:.1f} minutes"
    claims = [verdict(claim, report) for claim in run.preset.claims]
    known = report["accuracy"]
    return {
        "what it is": run.preset.about,
        "task": task_words(run.preset),
        "training": f"{run.epochs} of {run.preset.training.epochs} epochs{took}",
        "operations per record": f"{operations(run):,} FLOPs",
        "accuracy": "" if known is None else f"{known:.4f}, the highest score's class, of records with one label",
        "should reach": "; ".join(f"{each.claim}: {'yes' if each.reached else 'no'}" for each in claims),
    }


def operations(run: Run) -> int:
    """Return the floating-point operations of a record."""
    facts = run.checkpoint.facts
    crop_samples = whole_frames(run.preset.training.crop_s, facts.signal.rate_hz, 1)
    return record_flops(run.checkpoint.model, facts.signal.rate_hz, len(facts.leads), crop_samples)


def f1_at_half(logits: Float32Array, labels: Float32Array, classes: Sequence[str]) -> float | None:
    """Return the macro-F1 of calls at a probability of one half as the network gives it, before any calibration."""
    probabilities = np.asarray(expit(logits.astype(np.float64)))
    return figures(labels, probabilities, [HALF] * len(classes), classes).macro_f1


def _read(path: Path) -> dict[str, Any]:
    """Return a report that stands, or nothing."""
    try:
        report: dict[str, Any] = msgspec.json.decode(path.read_bytes())
    except (OSError, msgspec.MsgspecError):
        return {}
    return report
