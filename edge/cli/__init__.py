"""The command line `ecg-edge`: one module per command, each thin over the package that does the work."""

from __future__ import annotations

import argparse
from collections.abc import Sequence

from edge.cli.output import run_command
from edge.cli.parsing import add_commands, root_parser

PROG = "ecg-edge"
COMMANDS = ("run", "demo", "replay", "score", "check_config", "doctor", "bench")


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and return its exit status."""
    return run_command(PROG, build_parser, argv)


def build_parser() -> argparse.ArgumentParser:
    """Return the parser of all commands.

    The command modules are imported here rather than above because the other two command lines use
    `edge.cli.output`, and need not load a daemon for it.
    """
    parser, subparsers = root_parser(
        PROG,
        "Watches ECG streams that arrive over MQTT and publishes alerts as they happen.",
        [
            "ecg-edge demo                            a broker, a monitor and a few patients, live in this terminal",
            "ecg-edge check-config --sample           a configuration to start from, every key explained",
            "ecg-edge run --config ecg-edge.toml      the monitor, as systemd runs it",
            "ecg-edge replay RECORD --broker HOST     play a WFDB record as if it were a live device",
            "ecg-edge score RECORD --json             class probabilities of a record, no broker needed",
            "ecg-edge doctor                          what works on this machine, and what to do where it does not",
            "ecg-edge bench --quick                   what this machine carries, in less than a minute",
        ],
    )
    add_commands(subparsers, "edge.cli", COMMANDS)
    return parser
