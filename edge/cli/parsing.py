"""Argument parsers that look alike: a short description, examples at the end, `--json` on every command."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from importlib import import_module
from typing import TypeAlias

from edge import RESEARCH_USE_ONLY, __version__
from edge.cli.output import EXIT_USAGE
from edge.errors import MissingExtraError

Subparsers: TypeAlias = "argparse._SubParsersAction[argparse.ArgumentParser]"
"""What add_subparsers() returns; argparse has no public name for it."""


def root_parser(prog: str, description: str, examples: Sequence[str]) -> tuple[argparse.ArgumentParser, Subparsers]:
    """Return the parser of a program and the place its commands are added to; without a command it prints its help."""
    parser = argparse.ArgumentParser(
        prog=prog,
        description=f"{description} {RESEARCH_USE_ONLY}",
        epilog=_epilog(examples),
        formatter_class=_HelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"{prog} {__version__}")

    def print_help(_: argparse.Namespace) -> int:
        parser.print_help()
        return EXIT_USAGE

    parser.set_defaults(run=print_help)
    return parser, parser.add_subparsers(title="commands", metavar="COMMAND")


def add_commands(subparsers: Subparsers, package: str, names: Sequence[str], extra: str | None = None) -> None:
    """Add the commands of these modules of a package, each by its `add_parser`.

    Raises MissingExtraError when a module needs what the extra would have installed.
    """
    for name in names:
        try:
            module = import_module(f"{package}.{name}")
        except ModuleNotFoundError as error:
            if extra is None or error.name is None or error.name.split(".")[0] == package.split(".")[0]:
                raise
            raise MissingExtraError(extra, error.name) from None
        module.add_parser(subparsers)


def add_command(
    subparsers: Subparsers,
    name: str,
    run: Callable[[argparse.Namespace], int],
    summary: str,
    description: str = "",
    examples: Sequence[str] = (),
) -> argparse.ArgumentParser:
    """Add a command that calls `run(args)` and has `--json`; return its parser for its own arguments."""
    parser: argparse.ArgumentParser = subparsers.add_parser(
        name,
        help=summary,
        description=f"{summary[0].upper()}{summary[1:]}. {description}".strip(),
        epilog=_epilog(examples),
        formatter_class=_HelpFormatter,
    )
    parser.add_argument("--json", action="store_true", help="print the result as one JSON object on standard output")
    parser.set_defaults(run=run)
    return parser


def positive(text: str) -> float:
    """Read a finite number above 0."""
    value = _number(text)
    if not 0 < value < float("inf"):
        raise argparse.ArgumentTypeError("must be above 0")
    return value


def share(text: str) -> float:
    """Read a part of a whole."""
    value = _number(text)
    if not 0 <= value <= 1:
        raise argparse.ArgumentTypeError("must lie between 0 and 1")
    return value


def count(text: str, most: int = 1000) -> int:
    """Read a number of things."""
    value = int(text)
    if not 1 <= value <= most:
        raise argparse.ArgumentTypeError(f"must lie between 1 and {most}")
    return value


def _epilog(examples: Sequence[str]) -> str:
    return "\n".join(["examples:", *(f"  {example}" for example in examples)]) if examples else ""


class _HelpFormatter(argparse.RawDescriptionHelpFormatter):
    """Wraps descriptions to the terminal, keeps the lines of the examples, has room for the names of commands."""

    def __init__(self, prog: str) -> None:
        super().__init__(prog, max_help_position=30)

    def _fill_text(self, text: str, width: int, indent: str) -> str:
        if text.startswith("examples:"):
            return super()._fill_text(text, width, indent)
        return argparse.HelpFormatter._fill_text(self, text, width, indent)


def _number(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is no number") from None
