"""`ecg-trainer tune`: calibration and thresholds of a bundle, from records it was not trained on."""

from __future__ import annotations

import argparse
import datetime
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from rich import box
from rich.console import Console
from rich.table import Table

from edge.cli.output import EXIT_OK, emit_json, say
from edge.cli.parsing import add_command
from edge.runtime.bundle import load_bundle, write_manifest
from edge.runtime.manifest import Manifest
from trainer.folds import parse_folds
from trainer.predict import labels_of, score
from trainer.ptbxl import open_ptbxl
from trainer.report import DATA, DEFAULT_REPLICATES, figures_table, measure
from trainer.tune import tune, tuned_manifest

if TYPE_CHECKING:
    from edge.cli.parsing import Subparsers

TEST_FOLD = 10


def add_parser(subparsers: Subparsers) -> None:
    """Add `tune`."""
    parser = add_command(
        subparsers,
        "tune",
        run,
        "fit a bundle's calibration and thresholds",
        "Writes calibration, operating points and the figures they give into the bundle's manifest. "
        f"Fold {TEST_FOLD} is for testing and is refused.",
        ["ecg-trainer tune --data ptb-xl --bundle bundles/mine"],
    )
    parser.add_argument("--data", type=Path, required=True, metavar="DIR", help="a PTB-XL root, with all folds or some")
    parser.add_argument("--bundle", type=Path, required=True, metavar="DIR", help="the model bundle to tune")
    parser.add_argument("--folds", type=tuning_folds, default="9", help="such as 9 or 1-3,9 (default: 9)")


def tuning_folds(text: str) -> list[int]:
    """Return folds that may be tuned on; for argparse's `type`."""
    folds = parse_folds(text)
    if TEST_FOLD in folds:
        raise argparse.ArgumentTypeError(f"fold {TEST_FOLD} is the test fold: nothing is tuned on it")
    return folds


def run(args: argparse.Namespace) -> int:
    """Tune, write the manifest, print what changed."""
    bundle, data = load_bundle(args.bundle), open_ptbxl(args.data)
    rows = data.rows(args.folds)
    labels, logits = labels_of(bundle, data, rows), score(bundle, data, rows, "batch").logits
    before, tuning = bundle.manifest, tune(bundle.manifest, logits, labels)
    measurement = measure(tuned_manifest(before, tuning, {}), logits, labels, DEFAULT_REPLICATES)
    metrics = {**_origin(bundle.path, args.folds), **measurement.to_builtins()}
    after = tuned_manifest(before, tuning, metrics)
    write_manifest(bundle.path, after)
    notes = [*tuning.notes, *measurement.figures.notes]
    if args.json:
        emit_json({
            "bundle": bundle.path,
            "before": _tuned_parts(before),
            "after": _tuned_parts(after),
            "metrics": metrics,
            "notes": notes,
        })  # fmt: skip
        return EXIT_OK
    console = Console(file=sys.stdout)
    console.print(_changes(before, after))
    console.print(figures_table(f"{after.name} {after.version}, as tuned", measurement))
    for line in [*notes, f"wrote {bundle.path / 'manifest.json'}"]:
        say(line)
    return EXIT_OK


def _origin(bundle_path: Path, folds: list[int]) -> dict[str, object]:
    """Say where figures come from, in words that hold on any machine."""
    named = ",".join(map(str, folds))
    return {
        "data": DATA,
        "folds": folds,
        "tuned_on_folds": folds,
        "mode": "batch",
        "date": datetime.datetime.now(datetime.timezone.utc).date().isoformat(),
        "command": f"ecg-trainer tune --data PTBXL_ROOT --bundle {bundle_path.name} --folds {named}",
    }


def _tuned_parts(manifest: Manifest) -> dict[str, object]:
    return {"calibration": manifest.calibration, "operating_points": manifest.operating_points}


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
