"""`ecg-edge check-config`: every fault of a configuration at once, or what it comes to."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from edge.cli.output import EXIT_FAILED, EXIT_OK, emit_json, say
from edge.cli.parsing import Subparsers, add_command
from edge.daemon.alert_settings import alert_policy
from edge.daemon.broker_settings import file_problems
from edge.daemon.config import Config
from edge.daemon.config_docs import reference_markdown, sample_toml, settings
from edge.daemon.config_file import PATH_VARIABLE, configured_path, load_config
from edge.errors import BundleError, ConfigError
from edge.runtime.bundle import read_manifest, shipped_bundle_path


def add_parser(subparsers: Subparsers) -> None:
    """Add the command."""
    parser = add_command(
        subparsers,
        "check-config",
        run,
        "check a configuration file, or print one to start from",
        "Lists all problems with the key they are about; without problems, every setting in force. "
        "Starts nothing and connects to nothing.",
        [
            "ecg-edge check-config --sample > ecg-edge.toml",
            "ecg-edge check-config ecg-edge.toml",
        ],
    )
    parser.add_argument(
        "file",
        nargs="?",
        type=Path,
        metavar="FILE",
        help=f"the TOML file (default: ${PATH_VARIABLE}, else the defaults)",
    )
    what = parser.add_mutually_exclusive_group()
    what.add_argument("--sample", action="store_true", help="print a sample with every key explained")
    what.add_argument("--reference", action="store_true", help="print the reference of all keys as Markdown")


def run(args: argparse.Namespace) -> int:
    """Print the sample, the reference, the problems or the settings; exit 1 when there are problems."""
    if args.sample or args.reference:
        return _print_document("sample" if args.sample else "reference", args.json)
    source = str(configured_path(args.file) or "defaults")
    try:
        config = load_config(args.file)
        problems = file_problems(config.broker) + model_problems(config)
    except ConfigError as error:
        config, problems = None, list(error.problems)
    in_force = {} if config is None else dict(settings(config))
    if args.json:
        emit_json({"source": source, "ok": not problems, "problems": problems, "settings": in_force})
    else:
        _print_result(source, problems, in_force)
    return EXIT_FAILED if problems else EXIT_OK


def model_problems(config: Config) -> list[str]:
    """Return what is wrong with the bundle a configuration names, or with what it says about the bundle's classes."""
    try:
        alert_policy(config.alerts, read_manifest(config.model.bundle or shipped_bundle_path()))
    except BundleError as error:
        return [f"model.bundle: {error}"]
    except ConfigError as error:
        return [f"{error.source}.{problem}" for problem in error.problems]
    return []


def _print_document(kind: str, as_json: bool) -> int:
    text = sample_toml() if kind == "sample" else reference_markdown()
    if as_json:
        emit_json({kind: text})
    else:
        sys.stdout.write(text)
    return EXIT_OK


def _print_result(source: str, problems: list[str], in_force: dict[str, object]) -> None:
    if problems:
        say(f"{source}: {len(problems)} problem{'s' if len(problems) > 1 else ''}")
        for problem in problems:
            say(f"  {problem}")
        return
    print(f"{source}: no problems; in force:")
    for key, value in in_force.items():
        print(f"  {key} = {'-' if value is None else value}")
