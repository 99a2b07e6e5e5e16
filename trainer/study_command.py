"""`ecg-trainer study`: train a recipe and variants of it with several seeds, and put what they give in one table."""

from __future__ import annotations

import argparse
import datetime
import re
import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from rich import box
from rich.console import Console
from rich.table import Table

from edge.cli.output import EXIT_OK, emit_json, say
from edge.cli.parsing import add_command
from edge.errors import ConfigError
from trainer.cli import any_seed, n_epochs, n_records
from trainer.distributed import refuse_several
from trainer.folds import folds_text, parse_folds, refuse_overlap, tuning_folds
from trainer.preset import load_preset
from trainer.pretrain_command import report as report_pretraining
from trainer.study import Study, load_study, pretrained, run_variant, table_of, variants_of
from trainer.targets import load_soft_labels, named
from trainer.tasks import open_task
from trainer.train_command import origin, report

if TYPE_CHECKING:
    from edge.cli.parsing import Subparsers

STUDIES_DIR = Path(__file__).parent / "studies"


def add_parser(subparsers: Subparsers) -> None:
    """Add `study`."""
    parser = add_command(
        subparsers,
        "study",
        run,
        "compare variants of a recipe over several seeds",
        "A study is a TOML file: a base preset and what each variant changes. Goes on where it was interrupted; --only "
        "trains some of the variants now and the others another time.",
        [
            "ecg-trainer study front-ends --data ptb-xl --out runs/front-ends",
            "ecg-trainer study labels --data ptb-xl --out runs/labels",
            "ecg-trainer study mine.toml --data ptb-xl --out runs/mine --only streaming --seeds 0 --json",
        ],
    )
    parser.add_argument("study", help=f"a TOML file, or one of {', '.join(study_names())}")
    parser.add_argument("--data", type=Path, required=True, metavar="DIR", help="a PTB-XL root")
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="where the runs stand")
    parser.add_argument("--folds", type=parse_folds, default="1-8", help="folds to train on (default: 1-8)")
    parser.add_argument("--tune-folds", type=tuning_folds, default="9", help="folds to measure on (default: 9)")
    parser.add_argument("--soft-labels", type=Path, nargs="+", default=[], metavar="FILE", help="see `train`")
    parser.add_argument("--only", nargs="+", metavar="VARIANT", help="these variants only (default: all)")
    parser.add_argument("--seeds", type=any_seed, nargs="+", metavar="N", help="these seeds (default: the study's)")
    parser.add_argument("--epochs", type=n_epochs, metavar="N", help="train this long instead of what the study says")
    parser.add_argument("--limit", type=n_records, metavar="N", help="use the first N records of each split only")


def run(args: argparse.Namespace) -> int:
    """Train what is missing and print the table of all that was asked for."""
    refuse_several("study")
    refuse_overlap(args.folds, args.tune_folds)
    study = load_study(study_path(args.study))
    base = load_preset(study.base)
    variants = variants_of(study, base, args.epochs)
    unknown = set(args.only or ()) - set(variants)
    if unknown:
        raise ConfigError(args.study, (f"no variant {', '.join(sorted(unknown))}; there are {', '.join(variants)}",))
    data = open_task(args.data, base.task)
    soft_labels = [load_soft_labels(path, data.classes) for path in args.soft_labels]
    facts = {"command": command_of(args), "limit": args.limit, **origin()}
    outcomes = []
    for name in args.only or variants:
        variant = variants[name]
        start = None
        if variant.start:
            say(f"{name}: what it starts from, by {variant.start}")
            start = pretrained(variant, data, args.folds, args.out, facts, args.limit, report_pretraining)
        for seed in args.seeds or study.seeds:
            say(f"{name}, seed {seed}")
            out = args.out / folder_name(name) / f"seed-{seed}"
            outcomes.append(run_variant(name, variant.preset, data, args.folds, args.tune_folds, soft_labels, out, seed,
                                        facts, args.limit, report, start))  # fmt: skip
    today = datetime.datetime.now(datetime.timezone.utc).date().isoformat()
    table = table_of(study, outcomes, command_of(args), today)
    if args.json:
        emit_json(table)
    else:
        _print(study, table["columns"], table["rows"])
    return EXIT_OK


def study_names() -> list[str]:
    """Return the names of the studies that come with the package."""
    return sorted(path.stem for path in STUDIES_DIR.glob("*.toml"))


def study_path(name_or_path: str) -> Path:
    """Return where a study stands."""
    return STUDIES_DIR / f"{name_or_path}.toml" if name_or_path in study_names() else Path(name_or_path)


def folder_name(variant: str) -> str:
    """Return a variant's name as a folder's: letters, digits and dashes."""
    return re.sub(r"[^a-z0-9.]+", "-", variant.lower()).strip("-.")


def command_of(args: argparse.Namespace) -> str:
    """Return the command that does this again anywhere: without the folders of this machine."""
    words = ["ecg-trainer", "study", Path(args.study).stem, "--data", "PTBXL_ROOT", "--out", "OUT"]
    words += ["--folds", folds_text(args.folds), "--tune-folds", folds_text(args.tune_folds)]
    if args.soft_labels:
        words += ["--soft-labels", *map(named, args.soft_labels)]
    for name in ("epochs", "limit"):
        if getattr(args, name) is not None:
            words += [f"--{name}", str(getattr(args, name))]
    for name in ("seeds", "only"):
        if getattr(args, name):
            words += [f"--{name}", *map(str, getattr(args, name))]
    return shlex.join(words)


def _print(study: Study, columns: list[str], rows: list[list[str]]) -> None:
    table = Table(title=study.title, box=box.SIMPLE_HEAD)
    for column in columns:
        table.add_column(column, justify="left" if column == "variant" else "right")
    for row in rows:
        table.add_row(*row)
    Console(file=sys.stdout).print(table)
