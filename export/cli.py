"""The command line `ecg-export`."""

from __future__ import annotations

import argparse
from collections.abc import Sequence

from edge.cli.output import run_command
from edge.cli.parsing import Subparsers, add_commands, root_parser
from edge.errors import MissingExtraError

PROG = "ecg-export"
COMMANDS = ("bundle_command", "verify_command", "precision_command", "tensorrt_command")


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and return its exit status."""
    return run_command(PROG, build_parser, argv)


def build_parser() -> argparse.ArgumentParser:
    """Return the parser of all commands.

    A device builds its engine with `tensorrt` and has no PyTorch: the commands that need it then say so when called.
    """
    parser, subparsers = root_parser(
        PROG,
        "Turns trained checkpoints into model bundles and holds every runtime against PyTorch.",
        [
            "ecg-export bundle runs/streaming/best --out bundles/mine --name mine",
            "ecg-export verify bundles/mine --data ptb-xl",
            "ecg-export tensorrt bundles/mine --target orin",
        ],
    )
    for name in COMMANDS:
        try:
            add_commands(subparsers, "export", (name,), extra="export")
        except MissingExtraError as error:
            _add_unavailable(subparsers, name.removesuffix("_command"), error)
    return parser


def _add_unavailable(subparsers: Subparsers, name: str, error: MissingExtraError) -> None:
    """Add a command that takes any arguments and raises the error."""

    def run(_: argparse.Namespace) -> int:
        raise error

    parser = subparsers.add_parser(name, help=f"needs {error.module}", prefix_chars="\0", add_help=False)
    parser.add_argument("anything", nargs="*")
    parser.set_defaults(run=run)
