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
from trainer.checkpoint import Checkpoint, load_checkpoint
from trainer.kinds import MAMBA

DEFAULT_NAME = "ecg-mamba"
CHECK_STREAMS = 2
CHECK_S = 60.0


def add_parser(subparsers: Subparsers) -> None:
    """Add the command."""
    parser = add_command(
        subparsers,
        "bundle",
        run,
        "write a checkpoint as a model bundle",
        "The streaming Mamba becomes a recurrent bundle; any other network a windowed one, which looks at the last ten "
        "seconds anew every second. The bundle has no calibration and thresholds of 0.5 until `ecg-trainer tune` has "
        "seen it.",
        [
            "ecg-export bundle runs/streaming/best --out bundles/mine --name mine --version 0.1.0",
            "ecg-export bundle runs/resnet1d-wang/best --out bundles/resnet",
        ],
    )
    parser.add_argument("checkpoint", type=Path, metavar="CHECKPOINT", help="folder of the checkpoint")
    parser.add_argument(
        "--out", type=Path, required=True, metavar="DIR", help="the bundle; one that is there is replaced"
    )
    parser.add_argument("--name", help="name of the model (default: ecg-mamba, or what kind of network it is)")
    parser.add_argument("--version", default="0.1.0", help="version of the model (default: %(default)s)")


def run(args: argparse.Namespace) -> int:
    """Write the bundle and compare the runtimes on synthetic beats; exit 1 when they differ."""
    checkpoint = load_checkpoint(args.checkpoint)
    name = args.name or (DEFAULT_NAME if checkpoint.facts.kind == MAMBA else checkpoint.facts.kind)
    bundle = write_bundle(checkpoint, args.out, name, args.version)
    parity = verify(bundle, synthetic_signals(bundle.manifest, CHECK_STREAMS, CHECK_S), "synthetic beats")
    if args.json:
        emit_json({
            "bundle": bundle.path,
            "kind": bundle.manifest.kind,
            "files": bundle.manifest.files,
            "parity": result_of(parity),
            "notes": notes_on(checkpoint),
        })  # fmt: skip
    else:
        for line in [f"wrote {bundle.path}, {bundle.manifest.kind}", *notes_on(checkpoint)]:
            say(line)
        print(describe(parity))
    return EXIT_OK if parity.passed else EXIT_FAILED


def notes_on(checkpoint: Checkpoint) -> list[str]:
    """Return what to know of a bundle that follows from how its model was trained."""
    if not checkpoint.knows_one_label:
        return []
    return ["knows one label a record: its probabilities are a softmax's until `ecg-trainer tune` calibrates them"]
