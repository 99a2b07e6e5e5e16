"""The command line `ecg-trainer`."""

from __future__ import annotations

import argparse
from collections.abc import Sequence

from edge.cli.output import run_command
from edge.cli.parsing import add_commands, root_parser

PROG = "ecg-trainer"
MOST_EPOCHS, MOST_RECORDS, MOST_THREADS, MOST_REPLICATES = 10_000, 1_000_000_000, 1000, 1_000_000
MOST_SEED = 2**32 - 1
"""What every generator takes, scikit-learn's too."""
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


def n_epochs(text: str) -> int:
    """Read how many epochs to train, as many as a preset may name; for argparse's `type`, as those below."""
    return _whole(text, 1, MOST_EPOCHS)


def n_records(text: str) -> int:
    """Read how many records to use."""
    return _whole(text, 1, MOST_RECORDS)


def n_threads(text: str) -> int:
    """Read how many threads to compute with."""
    return _whole(text, 1, MOST_THREADS)


def any_seed(text: str) -> int:
    """Read a seed."""
    return _whole(text, 0, MOST_SEED)


def n_replicates(text: str) -> int:
    """Read how many bootstrap replicates to draw, or 0 for none."""
    return _whole(text, 0, MOST_REPLICATES)


def _whole(text: str, least: int, most: int) -> int:
    try:
        value = int(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number") from None
    if not least <= value <= most:
        raise argparse.ArgumentTypeError(f"must lie between {least} and {most}")
    return value
