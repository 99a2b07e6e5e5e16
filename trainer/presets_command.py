"""`ecg-trainer presets`: which recipes there are, and everything one of them decides."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from edge.cli.output import EXIT_OK, emit_json
from edge.cli.parsing import add_command
from trainer.kinds import build_model
from trainer.preset import load_preset, preset_names

if TYPE_CHECKING:
    from edge.cli.parsing import Subparsers


def add_parser(subparsers: Subparsers) -> None:
    """Add `presets`."""
    parser = add_command(
        subparsers,
        "presets",
        run,
        "list the presets, or show everything one decides",
        "A preset is a TOML file: a copy with a change is a preset too.",
        ["ecg-trainer presets", "ecg-trainer presets streaming --json"],
    )
    parser.add_argument("preset", nargs="*", help="a preset's name or a TOML file (default: all that ship)")


def run(args: argparse.Namespace) -> int:
    """Print the presets."""
    described = {}
    for preset in map(load_preset, args.preset or preset_names()):
        parameters = sum(p.numel() for p in build_model(preset.kind, preset.model).parameters())
        described[preset.name] = {"parameters": parameters, **preset.describe()}
    if args.json:
        emit_json(described)
        return EXIT_OK
    for name, settings in described.items():
        print(f"{name}: {settings['parameters']:,} parameters")
        for section in ("model", "signal", "training") if args.preset else ():
            print(f"  [{section}]", *(f"  {key} = {value}" for key, value in settings[section].items()), sep="\n")
    return EXIT_OK
