"""`ecg-trainer evaluate`: how good a bundle is on some folds, in PyTorch or streamed through a runtime."""

from __future__ import annotations

import argparse
import datetime
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console

from edge.cli.output import EXIT_OK, emit_json, say
from edge.cli.parsing import add_command
from edge.runtime.base import calibrated
from edge.runtime.bundle import load_bundle
from edge.runtime.manifest import Manifest
from edge.runtime.select import KINDS
from trainer.cli import n_replicates
from trainer.folds import folds_text, parse_folds
from trainer.plots import write_plots
from trainer.predict import MODES, TABLE_HELP, labels_of, open_labelled, score
from trainer.report import (
    DATA,
    DEFAULT_REPLICATES,
    Measurement,
    figures_table,
    fold_notes,
    measure,
    measured_model,
)

if TYPE_CHECKING:
    from edge.cli.parsing import Subparsers


def add_parser(subparsers: Subparsers) -> None:
    """Add `evaluate`."""
    parser = add_command(
        subparsers,
        "evaluate",
        run,
        "measure a bundle on folds of PTB-XL",
        "batch: PyTorch's pass over whole records. stream: hop by hop through the device's own path and runtime.",
        [
            "ecg-trainer evaluate --data ptb-xl --folds 9 --mode stream",
            "ecg-trainer evaluate --data ptb-xl --bundle bundles/mine --plots plots --json",
        ],
    )
    parser.add_argument("--data", type=Path, required=True, metavar="DIR", help="a PTB-XL root, with all folds or some")
    parser.add_argument("--bundle", type=Path, metavar="DIR", help="a model bundle (default: the one that ships)")
    parser.add_argument("--folds", type=parse_folds, default="9", help="such as 9 or 1-3,9 (default: 9)")
    parser.add_argument("--mode", choices=MODES, default="batch", help="how to score (default: batch)")
    parser.add_argument("--runtime", choices=KINDS, default="auto", help="what streams run on (default: auto)")
    parser.add_argument("--table", type=Path, metavar="FILE", help=TABLE_HELP)
    parser.add_argument("--plots", type=Path, metavar="DIR", help="write ROC, precision-recall and other plots here")
    parser.add_argument(
        "--bootstrap", type=n_replicates, default=DEFAULT_REPLICATES, metavar="N",
        help=f"replicates behind the 95 %% intervals, 0 for none (default: {DEFAULT_REPLICATES})",
    )  # fmt: skip


def run(args: argparse.Namespace) -> int:
    """Score the folds and print the figures."""
    start_s = time.monotonic()
    bundle = load_bundle(args.bundle)
    data = open_labelled(bundle, args.data, args.table)
    manifest, rows = bundle.manifest, data.rows(args.folds)
    labels = labels_of(bundle, data, rows)
    scored = score(bundle, data, rows, args.mode, args.runtime)
    measurement = measure(manifest, scored.logits, labels, args.bootstrap)
    title = _title(manifest, args.folds, args.mode)
    plots: list[Path] = []
    if args.plots is not None:
        probabilities = calibrated(manifest.calibration, scored.logits)
        plots = write_plots(args.plots, title, labels, probabilities, measurement.figures)
    notes = [*measurement.figures.notes, *fold_notes(manifest, args.folds)]
    if args.json:
        emit_json({
            **measurement.to_builtins(),
            "mode": args.mode,
            "runtime": scored.runtime,
            "data": DATA,
            "folds": args.folds,
            "bundle": measured_model(manifest),
            "date": datetime.datetime.now(datetime.timezone.utc).date().isoformat(),
            "command": command_of(args),
            "notes": notes,
            "plots": plots,
            "seconds": round(time.monotonic() - start_s, 2),
        })  # fmt: skip
    else:
        _print(title, measurement, notes, plots)
    return EXIT_OK


def command_of(args: argparse.Namespace) -> str:
    """Return the command in words that hold on any machine."""
    words = ["ecg-trainer evaluate --data PTBXL_ROOT"]
    words += [f"--bundle {args.bundle.resolve().name}"] if args.bundle else []
    words += [f"--table {args.table.name}"] if args.table else []
    return " ".join([*words, f"--folds {folds_text(args.folds)} --mode {args.mode} --json"])


def _print(title: str, measurement: Measurement, notes: list[str], plots: list[Path]) -> None:
    Console(file=sys.stdout).print(figures_table(title, measurement))
    for line in [*notes, *(f"wrote {path}" for path in plots)]:
        say(line)


def _title(manifest: Manifest, folds: list[int], mode: str) -> str:
    named = f"fold{'s' if len(folds) > 1 else ''} {', '.join(map(str, folds))}"
    return f"{manifest.name} {manifest.version}, {named}, {mode}"
