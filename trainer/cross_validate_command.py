"""`ecg-trainer cross-validate`: honest figures over several folds, and soft labels for distillation."""

from __future__ import annotations

import argparse
import shlex
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from edge.cli.output import EXIT_OK, as_json, emit_json, say
from edge.cli.parsing import add_command
from trainer.cli import any_seed, n_epochs, n_records
from trainer.cross_validate import PartResult, joined, parts_of, run_part
from trainer.distributed import refuse_several
from trainer.folds import folds_text, parse_folds
from trainer.preset import load_preset
from trainer.targets import SOFT_LABELS_NAME
from trainer.tasks import open_task
from trainer.train_command import origin, report, with_epochs

if TYPE_CHECKING:
    from edge.cli.parsing import Subparsers


FIGURES_NAME = "cross_validation.json"
FIGURES = {"macro_auc": "macro-AUC", "macro_auprc": "macro-AP", "accuracy": "accuracy"}


def add_parser(subparsers: Subparsers) -> None:
    """Add `cross-validate`."""
    parser = add_command(
        subparsers,
        "cross-validate",
        run,
        "train several times, each leaving some folds out",
        "Writes what each training says of the folds it never saw, calibrated on the other trainings' folds, to "
        f"OUT/{SOFT_LABELS_NAME}, to teach another model with (`train --soft-labels`), and how well each did to "
        f"OUT/{FIGURES_NAME}. Goes on where it was interrupted.",
        ["ecg-trainer cross-validate --data ptb-xl --preset resnet1d-wang --parts 4 --out runs/teacher"],
    )
    parser.add_argument("--data", type=Path, required=True, metavar="DIR", help="a PTB-XL root")
    parser.add_argument("--preset", required=True, help="a preset's name or a TOML file")
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="where the runs stand")
    parser.add_argument("--folds", type=parse_folds, default="1-8", help="folds to go through (default: 1-8)")
    parser.add_argument("--parts", type=int, default=4, metavar="N", help="trainings (default: 4)")
    parser.add_argument("--epochs", type=n_epochs, metavar="N", help="train this long instead of what the preset says")
    parser.add_argument("--limit", type=n_records, metavar="N", help="use the first N records of each split only")
    parser.add_argument("--seed", type=any_seed, default=0, help="seed of weights, crops and order (default: 0)")
    parser.add_argument("--fresh", action="store_true", help="start over, even if OUT holds runs")


def run(args: argparse.Namespace) -> int:
    """Train all parts and join what they say."""
    refuse_several("cross-validate")
    preset = with_epochs(load_preset(args.preset), args.epochs)
    parts = parts_of(args.folds, args.parts, choose_epoch=preset.training.keep == "best")
    data = open_task(args.data, preset.task)
    if args.fresh:
        shutil.rmtree(args.out, ignore_errors=True)
    facts = {"command": command_of(args), "limit": args.limit, **origin()}
    results = []
    for number, part in enumerate(parts, 1):
        say(f"part {number} of {len(parts)}: without folds {folds_text(part.held_out)}")
        out = args.out / f"part-{number}"
        results.append(run_part(preset, data, part, out, args.seed, facts, args.limit, report))
    joined(results, data.classes).save(args.out / SOFT_LABELS_NAME)
    figures = figures_of(results)
    result = {**figures, "preset": preset.name, "command": facts["command"], "soft_labels": SOFT_LABELS_NAME}
    (args.out / FIGURES_NAME).write_text(as_json(result))
    for name, words in FIGURES.items():
        say(f"{words} {figures[f'{name}_mean']:.4f} ± {figures[f'{name}_sd']:.4f} over {len(parts)} parts")
    say(f"wrote {args.out / SOFT_LABELS_NAME} and {FIGURES_NAME} beside it")
    if args.json:
        emit_json(result)
    return EXIT_OK


def figures_of(results: list[PartResult]) -> dict[str, Any]:
    """Return each part's figures, their means and their standard deviations."""
    figures: dict[str, Any] = {"parts": [{"held_out": result.part.held_out, **result.figures} for result in results]}
    for name in FIGURES:
        each = [result.figures[name] for result in results]
        figures[f"{name}_mean"], figures[f"{name}_sd"] = float(np.mean(each)), float(np.std(each, ddof=1))
    return figures


def command_of(args: argparse.Namespace) -> str:
    """Return the command that does this again anywhere: without the folders of this machine."""
    preset = Path(args.preset).name
    words = ["ecg-trainer", "cross-validate", "--data", "PTBXL_ROOT", "--preset", preset, "--out", "OUT"]
    words += ["--folds", folds_text(args.folds), "--parts", str(args.parts), "--seed", str(args.seed)]
    for name in ("epochs", "limit"):
        if getattr(args, name) is not None:
            words += [f"--{name}", str(getattr(args, name))]
    return shlex.join(words)
