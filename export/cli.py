"""The command line `ecg-export`."""

from __future__ import annotations

import argparse
from collections.abc import Sequence

from edge.cli.output import run_command
from edge.cli.parsing import add_commands, root_parser

PROG = "ecg-export"
COMMANDS = ("bundle_command", "verify_command")


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and return its exit status."""
    return run_command(PROG, build_parser, argv)


def build_parser() -> argparse.ArgumentParser:
    """Return the parser of all commands; raises MissingExtraError where they cannot be imported."""
    parser, subparsers = root_parser(
        PROG,
        "Turns trained checkpoints into model bundles and holds every runtime against PyTorch.",
        [
            "ecg-export bundle runs/streaming/best --out bundles/mine --name mine",
            "ecg-export verify bundles/mine --data ptb-xl",
        ],
    )
    add_commands(subparsers, "export", COMMANDS, extra="export")
    return parser
