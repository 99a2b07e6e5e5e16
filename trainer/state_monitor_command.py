"""`ecg-trainer monitor-state`: what a bundle's carried state looks like when all is well, for the device to watch."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from rich import box
from rich.console import Console
from rich.table import Table

from edge.cli.output import EXIT_OK, emit_json, say
from edge.cli.parsing import add_command, count, positive
from edge.errors import RecordError
from edge.runtime.bundle import load_bundle, write_manifest
from edge.runtime.manifest import Manifest
from trainer.cli import any_seed
from trainer.folds import folds_text
from trainer.progress import progress
from trainer.ptbxl import open_ptbxl
from trainer.state_monitor import StreamSettings, measure_monitor, watched_manifest

if TYPE_CHECKING:
    from edge.cli.parsing import Subparsers

DEFAULTS = StreamSettings()
TRAINING_FOLDS = [1, 2, 3, 4, 5, 6, 7, 8]


def add_parser(subparsers: Subparsers) -> None:
    """Add `monitor-state`."""
    parser = add_command(
        subparsers,
        "monitor-state",
        run,
        "measure the range of a bundle's carried state",
        "Plays streams of records from the folds the model was trained on and writes the percentiles of the carried "
        "state, and the limits that follow, into the bundle's manifest. Devices watch their streams by them.",
        ["ecg-trainer monitor-state --data ptb-xl --bundle bundles/mine"],
    )
    parser.add_argument("--data", type=Path, required=True, metavar="DIR", help="a PTB-XL root, with all folds or some")
    parser.add_argument("--bundle", type=Path, required=True, metavar="DIR", help="the model bundle to write into")
    parser.add_argument(
        "--streams", type=count, default=DEFAULTS.streams, metavar="N",
        help=f"how many streams are played at once (default: {DEFAULTS.streams})",
    )  # fmt: skip
    parser.add_argument(
        "--seconds", type=positive, default=DEFAULTS.seconds, metavar="S",
        help=f"how long each of them is (default: {DEFAULTS.seconds:g})",
    )  # fmt: skip
    parser.add_argument(
        "--seed", type=any_seed, default=DEFAULTS.seed, help=f"order of records (default: {DEFAULTS.seed})"
    )


def run(args: argparse.Namespace) -> int:
    """Measure, write the manifest, print the ranges."""
    bundle, data = load_bundle(args.bundle), open_ptbxl(args.data)
    folds = [fold for fold in training_folds(bundle.manifest) if fold in data.folds]
    if not folds:
        raise RecordError(f"this copy of PTB-XL has no records of the folds {bundle.manifest.name} was trained on")
    settings = StreamSettings(args.streams, args.seconds, args.seed)
    with progress() as bar:
        task = bar.add_task("watching the state", total=settings.streams * settings.turns)
        monitor = measure_monitor(bundle, data, folds, settings, lambda records: bar.advance(task, records))
    after = watched_manifest(bundle.manifest, monitor)
    write_manifest(bundle.path, after)
    if args.json:
        emit_json({"bundle": bundle.path, "state_monitor": monitor})
        return EXIT_OK
    title = f"{after.name} {after.version}: size of the carried state, folds {folds_text(folds)}"
    Console(file=sys.stdout).print(_table(title, after))
    say(f"wrote {bundle.path / 'manifest.json'}")
    return EXIT_OK


def training_folds(manifest: Manifest) -> list[int]:
    """Return the folds the model says it was trained on, else those the protocol says."""
    stated = manifest.training.get("folds")
    return list(stated) if isinstance(stated, list) and stated else TRAINING_FOLDS


def _table(title: str, manifest: Manifest) -> Table:
    table = Table(title=title, box=box.SIMPLE_HEAD)
    table.add_column("tensor")
    for name in ("median", "99 %", "99.9 %", "largest", "limit"):
        table.add_column(name, justify="right")
    monitor = manifest.state_monitor
    for name, seen in {} if monitor is None else monitor.tensors.items():
        table.add_row(name, *(f"{size:.4g}" for size in (seen.p50, seen.p99, seen.p99_9, seen.max, seen.limit)))
    return table
