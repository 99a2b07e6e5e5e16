"""`ecg-export bundle`: a checkpoint becomes a model bundle, checked before it is called done."""

from __future__ import annotations

import argparse
from pathlib import Path

from edge.cli.output import EXIT_FAILED, EXIT_OK, emit_json, say
from edge.cli.parsing import Subparsers, add_command
from export.bundle import write_bundle
from export.signals import synthetic_signals
from export.verify import verify
from export.verify_command import describe, result_of
from trainer.checkpoint import load_checkpoint

CHECK_STREAMS = 2
CHECK_S = 60.0


def add_parser(subparsers: Subparsers) -> None:
    """Add the command."""
    parser = add_command(
        subparsers,
        "bundle",
        run,
        "write a checkpoint as a model bundle",
        "The bundle has no calibration and thresholds of 0.5 until `ecg-trainer tune` has seen it.",
        ["ecg-export bundle runs/streaming/best --out bundles/mine --name mine --version 0.1.0"],
    )
    parser.add_argument("checkpoint", type=Path, metavar="CHECKPOINT", help="folder of the checkpoint")
    parser.add_argument(
        "--out", type=Path, required=True, metavar="DIR", help="the bundle; one that is there is replaced"
    )
    parser.add_argument("--name", default="ecg-mamba", help="name of the model (default: %(default)s)")
    parser.add_argument("--version", default="0.1.0", help="version of the model (default: %(default)s)")


def run(args: argparse.Namespace) -> int:
    """Write the bundle and compare the runtimes on synthetic beats; exit 1 when they differ."""
    bundle = write_bundle(load_checkpoint(args.checkpoint), args.out, args.name, args.version)
    parity = verify(bundle, synthetic_signals(bundle.manifest, CHECK_STREAMS, CHECK_S), "synthetic beats")
    if args.json:
        emit_json({"bundle": bundle.path, "files": bundle.manifest.files, "parity": result_of(parity)})
    else:
        say(f"wrote {bundle.path}")
        print(describe(parity))
    return EXIT_OK if parity.passed else EXIT_FAILED
