"""The command line `ecg-trainer`."""

from __future__ import annotations

import argparse
from collections.abc import Sequence

from edge.cli.output import run_command
from edge.cli.parsing import root_parser
from trainer import download_command, evaluate_command, presets_command, train_command, tune_command

PROG = "ecg-trainer"
COMMANDS = (download_command, presets_command, train_command, tune_command, evaluate_command)


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and return its exit status."""
    return run_command(PROG, build_parser, argv)


def build_parser() -> argparse.ArgumentParser:
    """Return the parser of all commands."""
    parser, subparsers = root_parser(
        PROG,
        "Trains, tunes and evaluates ECG classifiers on PTB-XL.",
        [
            "ecg-trainer download --out ptb-xl",
            "ecg-trainer train --data ptb-xl --out runs/streaming",
            "ecg-trainer evaluate --data ptb-xl --folds 9 --mode stream",
        ],
    )
    for command in COMMANDS:
        command.add_parser(subparsers)
    return parser
