"""`ecg-edge doctor`: what works on this machine, and what to do about what does not."""

from __future__ import annotations

import argparse
import dataclasses
from pathlib import Path

from edge.cli.output import EXIT_FAILED, EXIT_OK, emit_json
from edge.cli.parsing import Subparsers, add_command
from edge.daemon.config_file import PATH_VARIABLE
from edge.daemon.doctor import Check, examine
from edge.daemon.logs import set_up_logging


def add_parser(subparsers: Subparsers) -> None:
    """Add the command."""
    parser = add_command(
        subparsers,
        "doctor",
        run,
        "check this machine: packages, runtimes, model, broker, clock, storage",
        "Each finding is ok, warn or fail and says what to do. Exits 1 when something fails.",
        ["ecg-edge doctor", "ecg-edge doctor --config /etc/ecg-edge/ecg-edge.toml --json"],
    )
    parser.add_argument(
        "--config",
        type=Path,
        metavar="FILE",
        help=f"configuration to check with (default: ${PATH_VARIABLE}, else none)",
    )


def run(args: argparse.Namespace) -> int:
    """Print the findings; exit 1 when one is a failure."""
    set_up_logging("error")  # the findings say what the transport's warnings would say a second time
    checks = examine(args.config)
    failed = any(check.outcome == "fail" for check in checks)
    if args.json:
        emit_json({"ok": not failed, "checks": [dataclasses.asdict(check) for check in checks]})
    else:
        _print(checks)
    return EXIT_FAILED if failed else EXIT_OK


def _print(checks: list[Check]) -> None:
    width = max(len(check.name) for check in checks)
    for check in checks:
        print(f"{check.outcome:<4}  {check.name:<{width}}  {check.detail}")
        if check.advice:
            print(f"{'':<4}  {'':<{width}}  → {check.advice}")
