"""`ecg-trainer presets`: which recipes there are, and everything one of them decides."""

from __future__ import annotations

import argparse
import sys
import textwrap
from typing import TYPE_CHECKING, Any

import msgspec
import torch
from rich import box
from rich.console import Console
from rich.table import Table

from edge.cli.output import EXIT_OK, emit_json
from edge.cli.parsing import add_command
from trainer.kinds import MAMBA, build_model
from trainer.preset import Preset, load_preset, preset_names

if TYPE_CHECKING:
    from edge.cli.parsing import Subparsers

COLUMNS = ("name", "parameters", "task", "kind")


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
    described = [summary(preset) for preset in map(load_preset, args.preset or preset_names())]
    if args.json:
        emit_json({"presets": described})
        return EXIT_OK
    table = Table(box=box.SIMPLE_HEAD)
    for column in COLUMNS:
        table.add_column(column, justify="right" if column == "parameters" else "left", no_wrap=True)
    for settings in described:
        table.add_row(*(f"{settings[name]:,}" if name == "parameters" else settings[name] for name in COLUMNS))
    Console(file=sys.stdout).print(table)
    for settings in described if args.preset else ():
        print(*textwrap.wrap(settings["about"], 100), sep="\n")
        plans = {f"pretraining.{method}": plan for method, plan in settings["pretraining"].items()}
        sections = {name: settings[name] for name in ("model", "signal", "training")}
        for section, decided in {**sections, "task": settings["asked"], **plans}.items():
            print(f"[{section}]", *(f"  {key} = {value}" for key, value in decided.items()), sep="\n")
    return EXIT_OK


def summary(preset: Preset) -> dict[str, Any]:
    """Return a preset's name, number of trainable parameters, task and kind of bundle, and all that it decides."""
    preset = preset.for_classes(preset.task.outputs)
    with torch.device("meta"):  # shapes are all it takes
        model = build_model(preset.kind, preset.model)
    described = preset.describe()
    return {
        "name": preset.name,
        "parameters": sum(p.numel() for p in model.parameters() if p.requires_grad),
        "task": task_name(described["task"]),
        "kind": "recurrent" if preset.kind == MAMBA else "windowed",
        "network": preset.kind,
        "about": preset.about,
        **{section: described[section] for section in ("model", "signal", "training")},
        "asked": described["task"],
        "pretraining": {method: msgspec.to_builtins(plan) for method, plan in preset.pretraining.stated().items()},
    }


def task_name(task: dict[str, Any]) -> str:
    """Say in a few words what a model is asked."""
    name = f"scp-top-{task['top']}" if task["labels"] == "scp" else str(task["table"] or task["labels"])
    if task["labels"] == "scp" or task["min_likelihood"] > 0:
        name += f" at {task['min_likelihood']:g} %"
    return f"{name}, all records" if task["unlabelled"] == "negative" else name
