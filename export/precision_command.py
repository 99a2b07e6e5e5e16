"""`ecg-export precision`: put the float16 graph into a bundle that was exported without one."""

from __future__ import annotations

import argparse
from pathlib import Path

from edge.cli.output import EXIT_OK, emit_json, say
from edge.cli.parsing import Subparsers, add_command
from edge.runtime.bundle import load_bundle
from edge.runtime.manifest import GRAPHS
from export.precision import add_float16_graph


def add_parser(subparsers: Subparsers) -> None:
    """Add the command."""
    parser = add_command(
        subparsers,
        "precision",
        run,
        "add the float16 graph to a bundle",
        f"It stands in {GRAPHS['fp16']}, and TensorRT engines of that precision are built from it. "
        "`ecg-export bundle` writes it by itself; `ecg-export verify --precision fp16` measures what it costs.",
        ["ecg-export precision bundles/mine"],
    )
    parser.add_argument("bundle", type=Path, metavar="BUNDLE", help="the bundle; its manifest is updated")


def run(args: argparse.Namespace) -> int:
    """Write the graph and its hash."""
    bundle = add_float16_graph(load_bundle(args.bundle))
    if args.json:
        emit_json({"bundle": bundle.path, "files": bundle.manifest.files})
    else:
        say(f"wrote {bundle.path / GRAPHS['fp16']}")
    return EXIT_OK
