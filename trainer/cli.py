"""The command line `ecg-trainer`."""

from __future__ import annotations

import argparse
from collections.abc import Sequence

from edge.cli.output import run_command
from edge.cli.parsing import add_commands, root_parser

PROG = "ecg-trainer"
COMMANDS = (
    "download_command",
    "presets_command",
    "pretrain_command",
    "train_command",
    "cross_validate_command",
    "study_command",
    "compare_command",
    "tune_command",
    "state_monitor_command",
    "evaluate_command",
    "stream_evaluate_command",
    "explain_command",
    "card_command",
    "share_command",
)


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and return its exit status."""
    return run_command(PROG, build_parser, argv)


def build_parser() -> argparse.ArgumentParser:
    """Return the parser of all commands; raises MissingExtraError where they cannot be imported."""
    parser, subparsers = root_parser(
        PROG,
        "Trains, tunes and evaluates ECG classifiers on PTB-XL.",
        [
            "ecg-trainer download --out ptb-xl",
            "ecg-trainer train --data ptb-xl --out runs/streaming",
            "ecg-trainer evaluate --data ptb-xl --folds 9 --mode stream",
        ],
    )
    add_commands(subparsers, "trainer", COMMANDS, extra="trainer")
    return parser
