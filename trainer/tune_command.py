"""`ecg-trainer tune`: calibration and thresholds of a bundle, from records it was not trained on."""

from __future__ import annotations

import argparse
import datetime
import os
import sys
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec
from rich import box
from rich.console import Console
from rich.table import Table

from edge.cli.output import EXIT_OK, emit_json, say
from edge.cli.parsing import add_command, positive
from edge.errors import BundleError
from edge.runtime.bundle import Bundle, load_bundle, write_manifest
from edge.runtime.manifest import Manifest
from edge.runtime.select import open_runtime
from trainer.folds import TEST_FOLD, folds_text, tuning_folds
from trainer.predict import TABLE_HELP, cached_logits, labels_of, open_labelled
from trainer.ptbxl import PtbXl
from trainer.report import DATA, DEFAULT_REPLICATES, Measurement, figures_table, measure, sheet_table
from trainer.streams.plan import HEALTHY_STREAMS, PlanSettings
from trainer.streams.report import alert_sheets, write_trade_off
from trainer.streams.traces import score_streams
from trainer.streams.tune import DEFAULT_BUDGET, AlertTuning, tune_alerts
from trainer.tune import CrossFit, cross_fit, tune, with_f1_thresholds

if TYPE_CHECKING:
    from edge.cli.parsing import Subparsers

ECE_LIMIT = 0.03
SEED = 0


def add_parser(subparsers: Subparsers) -> None:
    """Add `tune`."""
    parser = add_command(
        subparsers,
        "tune",
        run,
        "fit a bundle's calibration and thresholds",
        "Writes calibration, thresholds for F1, operating points for alerts and the figures they give into the "
        "bundle's manifest. Alerts are tuned on streams of records for the soonest detection that the budget of false "
        "alerts allows; the model's scores of those streams are kept, so that another budget takes seconds. "
        f"Fold {TEST_FOLD} is for testing and is refused.",
        [
            "ecg-trainer tune --data ptb-xl --bundle bundles/mine",
            "ecg-trainer tune --data ptb-xl --bundle bundles/mine --budget 4 --plots plots",
            "ecg-trainer tune --data ptb-xl --bundle bundles/mine --window 6",
        ],
    )
    parser.add_argument("--data", type=Path, required=True, metavar="DIR", help="a PTB-XL root, with all folds or some")
    parser.add_argument("--bundle", type=Path, required=True, metavar="DIR", help="the model bundle to tune")
    parser.add_argument("--folds", type=tuning_folds, default="9", help="such as 9 or 1-3,9 (default: 9)")
    parser.add_argument(
        "--budget", type=positive, default=DEFAULT_BUDGET, metavar="N",
        help=f"how many a healthy stream may raise, per class (default: {DEFAULT_BUDGET:g})",
    )  # fmt: skip
    parser.add_argument(
        "--window", type=positive, metavar="S",
        help="serve a window of so many seconds: a shorter one notices sooner, and less; for bundles with votes "
        "(default: as it is)",
    )  # fmt: skip
    parser.add_argument(
        "--healthy-streams", nargs="+", choices=HEALTHY_STREAMS, default=list(HEALTHY_STREAMS), metavar="KIND",
        help="which streams must keep to it: restless (another patient every 10 s), steady (every minute); "
        "default: both",
    )  # fmt: skip
    parser.add_argument("--table", type=Path, metavar="FILE", help=TABLE_HELP)
    parser.add_argument("--plots", type=Path, metavar="DIR", help="write the trade-off curves here")


@dataclass(frozen=True)
class Tuned:
    """All that tuning made."""

    manifest: Manifest
    measurement: Measurement
    crossfit: CrossFit
    alerts: AlertTuning | None
    notes: list[str]

    def metrics(self) -> dict[str, object]:
        """Return the figures as the manifest keeps them, without where they come from."""
        return {
            **self.measurement.to_builtins(),
            "macro_auc_crossfit": self.crossfit.macro_auc,
            "macro_f1_crossfit": self.crossfit.macro_f1,
            "macro_auprc_crossfit": self.crossfit.macro_auprc,
            "ece_crossfit": self.crossfit.ece,
            "crossfit": msgspec.to_builtins(self.crossfit),
            "alerts": msgspec.to_builtins(self.alerts),
        }


def run(args: argparse.Namespace) -> int:
    """Tune, write the manifest, print what changed."""
    loaded = load_bundle(args.bundle)
    bundle = loaded if args.window is None else with_window(loaded, args.window)
    data = open_labelled(bundle, args.data, args.table)
    tuned = tune_bundle(bundle, data, args.folds, args.budget, args.healthy_streams)
    metrics = {**_origin(args), **tuned.metrics()}
    before, after = loaded.manifest, msgspec.structs.replace(tuned.manifest, metrics=metrics)
    write_manifest(bundle.path, after)
    plots = []
    if args.plots is not None and tuned.alerts is not None:
        plots = [write_trade_off(args.plots, tuned.alerts)]
    if args.json:
        emit_json({
            "bundle": bundle.path,
            "before": _tuned_parts(before),
            "after": _tuned_parts(after),
            "metrics": metrics,
            "notes": tuned.notes,
            "plots": plots,
        })  # fmt: skip
        return EXIT_OK
    _print(before, after, tuned)
    for line in [*tuned.notes, *(f"wrote {path}" for path in [*plots, bundle.path / "manifest.json"])]:
        say(line)
    return EXIT_OK


def with_window(bundle: Bundle, window_s: float) -> Bundle:
    """Return a bundle whose scores are the mean of the votes of so many seconds; nothing is written.

    Raises BundleError where the graph pools its whole window, and for seconds that are no window of the bundle's.
    """
    manifest = bundle.manifest
    if not manifest.vote_hops:
        raise BundleError(bundle.path, "pools its whole window in its graph; another window takes another training")
    model = {**manifest.model, "window_samples": round(window_s * manifest.signal.rate_hz)}
    changed = msgspec.structs.replace(manifest, window_s=window_s, model=model)
    problems = changed.problems()
    if problems:
        raise BundleError(bundle.path, f"cannot have a window of {window_s:g} s: " + "; ".join(problems))
    return replace(bundle, manifest=changed)


def tune_bundle(bundle: Bundle, data: PtbXl, folds: list[int], budget: float, kinds: list[str]) -> Tuned:
    """Tune on these folds; nothing is written but caches."""
    rows = data.rows(folds)
    labels, logits = labels_of(bundle, data, rows), cached_logits(bundle, data, rows)
    tuning = tune(bundle.manifest, logits, labels)
    manifest, notes = with_f1_thresholds(bundle.manifest, tuning), list(tuning.notes)
    streams = score_streams(open_runtime(bundle, threads=os.cpu_count() or 1), data, rows, PlanSettings(seed=SEED))
    alerts = tune_alerts(manifest, streams, budget, kinds) if streams.traces else None
    if alerts is None:
        notes.append("alerts keep their thresholds: streams take two patients or more with records of NORM alone")
    else:
        points = manifest.operating_points | alerts.points
        manifest = msgspec.structs.replace(manifest, operating_points=points)
        notes += alerts.notes
    measurement = measure(manifest, logits, labels, DEFAULT_REPLICATES)
    crossfit = cross_fit(manifest, logits, labels, data.patient_ids[rows], SEED)
    if crossfit.ece is not None and crossfit.ece > ECE_LIMIT:
        notes.append(f"the calibration error, {crossfit.ece:.3f}, is above {ECE_LIMIT:g}")
    return Tuned(manifest, measurement, crossfit, alerts, [*notes, *measurement.figures.notes])


def _print(before: Manifest, after: Manifest, tuned: Tuned) -> None:
    console = Console(file=sys.stdout)
    console.print(_changes(before, after))
    console.print(figures_table(f"{after.name} {after.version}, as tuned", tuned.measurement))
    if tuned.crossfit.macro_f1 is not None:
        console.print(
            f"Fitted on one half of the patients, measured on the other: macro-AUC {tuned.crossfit.macro_auc:.4f}, "
            f"macro-F1 {tuned.crossfit.macro_f1:.4f}, "
            f"average precision {tuned.crossfit.macro_auprc:.4f}, calibration error {tuned.crossfit.ece:.4f}"
        )
    for sheet in alert_sheets(tuned.alerts) if tuned.alerts is not None else ():
        console.print(sheet_table(sheet))


def _origin(args: argparse.Namespace) -> dict[str, object]:
    """Say where figures come from, in words that hold on any machine."""
    bundle, kinds = args.bundle.resolve().name, sorted(args.healthy_streams)
    words = [f"ecg-trainer tune --data PTBXL_ROOT --bundle {bundle} --folds {folds_text(args.folds)}"]
    words += [f"--table {args.table.name}"] if args.table else []
    words += [f"--budget {args.budget:g}"]
    words += [f"--window {args.window:g}"] if args.window else []
    words += [] if kinds == sorted(HEALTHY_STREAMS) else [f"--healthy-streams {' '.join(kinds)}"]
    return {
        "data": DATA,
        "folds": args.folds,
        "tuned_on_folds": args.folds,
        "mode": "batch",
        "date": datetime.datetime.now(datetime.timezone.utc).date().isoformat(),
        "command": " ".join(words),
    }


def _tuned_parts(manifest: Manifest) -> dict[str, object]:
    return {name: getattr(manifest, name) for name in ("window_s", "calibration", "operating_points")}


def _changes(before: Manifest, after: Manifest) -> Table:
    table = Table(title=f"{after.name} {after.version}: before and after tuning", box=box.SIMPLE_HEAD)
    for name in ("class", "scale", "bias", "F1 threshold", "alert on", "alert off", "dwell"):
        table.add_column(name, justify="left" if name == "class" else "right")
    for k, name in enumerate(after.classes):
        pairs = zip(_row(before, k), _row(after, k), strict=True)
        table.add_row(name, *(f"[dim]{old}[/]\n{new}" for old, new in pairs))
    return table


def _row(manifest: Manifest, k: int) -> list[str]:
    point = manifest.operating_points[manifest.classes[k]]
    numbers = [manifest.calibration.scale[k], manifest.calibration.bias[k], point.f1_threshold, point.on, point.off]
    return [*(f"{number:.3f}" for number in numbers), f"{point.dwell_s:g} s"]
