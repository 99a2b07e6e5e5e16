"""`ecg-export verify`: how far every runtime that is here is from PyTorch, and what other precisions would cost."""

from __future__ import annotations

import argparse
import datetime
import sys
from dataclasses import asdict
from pathlib import Path

import msgspec
from rich.console import Console

from edge.cli.output import EXIT_FAILED, EXIT_OK, emit_json
from edge.cli.parsing import Subparsers, add_command
from edge.runtime.bundle import Bundle, load_bundle
from edge.runtime.manifest import Manifest
from export.precision import PRECISIONS
from export.precision_table import LabelledRecords, precision_sheet, precision_table
from export.signals import Float32Array, ptbxl_signals, synthetic_signals, wfdb_signals
from export.verify import Parity, RuntimeParity, verify
from trainer.folds import parse_folds
from trainer.ptbxl import open_ptbxl
from trainer.report import sheet_table

ALL = "all"


def add_parser(subparsers: Subparsers) -> None:
    """Add the command."""
    parser = add_command(
        subparsers,
        "verify",
        run,
        "compare every runtime of a bundle with PyTorch",
        "Whole windows from a cold start and hop by hop along streams; exits 1 when a logit differs by more than 1e-4 "
        "(2e-2 where projections are float16). With --precision, graphs of that precision in ONNX Runtime instead; "
        "with --data their macro-AUC too, of which a precision may cost 0.001.",
        [
            "ecg-export verify bundles/mine",
            "ecg-export verify bundles/mine --data ptb-xl --json",
            "ecg-export verify bundles/mine --precision all --data ptb-xl --json > precisions.json",
            "ecg-trainer card --bundle bundles/mine --table precisions.json",
        ],
    )
    parser.add_argument("bundle", type=Path, nargs="?", metavar="BUNDLE", help="the bundle (default: the shipped one)")
    source = parser.add_mutually_exclusive_group()
    source.add_argument("--records", type=Path, nargs="+", metavar="RECORD", help="WFDB records to compare on")
    source.add_argument(
        "--data", type=Path, metavar="ROOT", help="root of PTB-XL to compare on (default: synthetic beats)"
    )
    parser.add_argument("--streams", type=_at_least_one, default=4, help="streams side by side (default: %(default)s)")
    parser.add_argument("--seconds", type=float, default=300.0, help="length of a stream (default: %(default)s)")
    parser.add_argument(
        "--precision", choices=[*PRECISIONS, ALL], help="compare graphs of this precision with the float32 graph"
    )
    parser.add_argument(
        "--folds", type=parse_folds, default="9", help="folds of --data for --precision's macro-AUC (default: 9)"
    )


def run(args: argparse.Namespace) -> int:
    """Print the parity, or the table of precisions; exit 1 when something that is here does not agree."""
    bundle = load_bundle(args.bundle)
    signals, source = _signals(args, bundle.manifest)
    if args.precision is not None:
        return _run_precisions(args, bundle, signals, source)
    parity = verify(bundle, signals, source)
    if args.json:
        emit_json(result_of(parity))
    else:
        print(describe(parity))
    return EXIT_OK if parity.passed else EXIT_FAILED


def _run_precisions(args: argparse.Namespace, bundle: Bundle, signals: Float32Array, source: str) -> int:
    chosen = list(PRECISIONS) if args.precision == ALL else [args.precision]
    records = LabelledRecords(open_ptbxl(args.data), args.folds) if args.data else None
    table = precision_table(bundle, chosen, signals, source, records)
    command = f"ecg-export verify BUNDLE --precision {args.precision}{' --data PTBXL_ROOT' if args.data else ''}"
    today = datetime.datetime.now(datetime.timezone.utc).date().isoformat()
    sheet = precision_sheet(table, command, today)
    if args.json:
        emit_json({**asdict(table), **msgspec.to_builtins(sheet), "passed": table.passed})
    else:
        Console(file=sys.stdout).print(sheet_table(sheet))
    return EXIT_OK if table.passed else EXIT_FAILED


def result_of(parity: Parity) -> dict[str, object]:
    """Return the parity as a JSON object."""
    return {**asdict(parity), "passed": parity.passed}


def describe(parity: Parity) -> str:
    """Return the parity as a table for people."""
    head = (
        f"{parity.bundle} ({parity.model_hash[:12]}) on {parity.source}: {parity.cold_windows} cold windows, "
        f"{parity.streams} streams of {parity.stream_s:g} s hop by hop; allowed |Δlogit| {parity.tolerance:g}"
    )
    return "\n".join([head, f"{'runtime':<14}{'cold':>10}{'stream':>10}  states", *map(_row, parity.runtimes)])


def _row(runtime: RuntimeParity) -> str:
    verdict = "pass" if runtime.passed else "FAIL"
    if runtime.cold_max_difference is None or runtime.stream_max_difference is None:
        return f"{runtime.runtime:<14}{'' if not runtime.installed else verdict}  {runtime.problem}"
    states = "finite" if runtime.states_finite else "NOT FINITE"
    cold, stream = f"{runtime.cold_max_difference:.1e}", f"{runtime.stream_max_difference:.1e}"
    return f"{runtime.runtime:<14}{cold:>10}{stream:>10}  {states:<12}{verdict}"


def _signals(args: argparse.Namespace, manifest: Manifest) -> tuple[Float32Array, str]:
    if args.records:
        return wfdb_signals(manifest, args.records, args.streams, args.seconds), f"{len(args.records)} WFDB records"
    if args.data:
        return ptbxl_signals(manifest, args.data, args.streams, args.seconds), f"PTB-XL at {args.data}"
    return synthetic_signals(manifest, args.streams, args.seconds), "synthetic beats"


def _at_least_one(text: str) -> int:
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError("must be at least 1")
    return number
