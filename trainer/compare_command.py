"""`ecg-trainer compare`: train and measure all presets, and put them into one table."""

from __future__ import annotations

import argparse
import datetime
import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec
import torch

from edge.bench.machine import busy, describe_machine
from edge.cli.output import EXIT_FAILED, EXIT_OK, emit_json, say
from edge.cli.parsing import add_command
from edge.errors import ConfigError, EcgEdgeError
from edge.runtime.bundle import Bundle
from trainer.cli import any_seed, n_epochs, n_records, n_replicates, n_threads
from trainer.compare.cost import hop_costs
from trainer.compare.report import reported
from trainer.compare.runs import Asked, Run, default_names, run_in, standing, train
from trainer.compare.table import Comparison, Row, in_order, markdown, notes_on, row_of
from trainer.distributed import Workers, WorkersError, workers
from trainer.folds import folds_text, parse_folds, tuning_folds
from trainer.preset import Preset, load_preset
from trainer.ptbxl import PtbXl, open_ptbxl
from trainer.report import DATA, DEFAULT_REPLICATES
from trainer.tasks import relabelled
from trainer.train_command import with_epochs

if TYPE_CHECKING:
    from edge.cli.parsing import Subparsers

TABLE_NAME = "compare.md"
RESULT_NAME = "compare.json"


def add_parser(subparsers: Subparsers) -> None:
    """Add `compare`."""
    parser = add_command(
        subparsers,
        "compare",
        run,
        "train all presets alike and put them into one table",
        "Every preset is trained in OUT/PRESET, from where it was interrupted; a folder that `ecg-trainer train` made "
        "is taken as it is. Each gets a bundle and a report with plots and a model card, and OUT/compare.md and "
        "compare.json hold all that stands: figures on the tuning folds, parameters, operations, training time, what a "
        "hop costs in the daemon, and what the preset should reach. Stop it whenever you like and start it again.",
        [
            "ecg-trainer compare --data ptb-xl --out runs/compare",
            "ecg-trainer compare --data ptb-xl --out runs/compare --only lstm s4-ecg   # others another time",
            "ecg-trainer compare --data ptb-xl --out runs/compare --only mine.toml hubert-ecg-base",
            "ecg-trainer compare --data ptb-xl --out runs/compare --no-train --json    # what stands",
            "ecg-trainer compare --data ptb-xl --out /tmp/try --limit 200 --epochs 1     # to try it out",
        ],
    )
    parser.add_argument("--data", type=Path, required=True, metavar="DIR", help="a PTB-XL root")
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="where the runs and the table stand")
    parser.add_argument(
        "--only", nargs="+", metavar="PRESET",
        help=f"train these only, by name or TOML file (default: {', '.join(default_names())}); the table has all that "
        "stand",
    )  # fmt: skip
    parser.add_argument("--no-train", action="store_true", help="train nothing: report what stands")
    parser.add_argument("--folds", type=parse_folds, default="1-8", help="folds to train on (default: 1-8)")
    parser.add_argument(
        "--tune-folds", type=tuning_folds, default="9", help="folds to choose weights on and to measure (default: 9)"
    )
    parser.add_argument("--epochs", type=n_epochs, metavar="N", help="train this long instead of what the presets say")
    parser.add_argument("--limit", type=n_records, metavar="N", help="use the first N records of each split only")
    parser.add_argument("--seed", type=any_seed, default=0, help="seed of weights, crops and order (default: 0)")
    parser.add_argument("--threads", type=n_threads, metavar="N", help="threads to train with (default: all cores)")
    parser.add_argument(
        "--bootstrap", type=n_replicates, default=DEFAULT_REPLICATES, metavar="N",
        help=f"replicates behind the 95 %% intervals, 0 for none (default: {DEFAULT_REPLICATES})",
    )  # fmt: skip


def run(args: argparse.Namespace) -> int:
    """Train what is missing, report everything that stands, write and print the table; exit 1 when something failed."""
    if args.threads:
        torch.set_num_threads(args.threads)
    with workers() as together:
        if together.count > 1:
            raise WorkersError("compare works in one process: train single presets with torchrun and `ecg-trainer "
                               "train --out OUT/PRESET`, then compare what stands")  # fmt: skip
        comparing = Comparing(args, together)
        for preset in [] if args.no_train else comparing.presets:
            comparing.train(preset)
        comparison = comparing.comparison()
    text = markdown(comparison)
    args.out.mkdir(parents=True, exist_ok=True)
    (args.out / TABLE_NAME).write_text(text, encoding="utf-8")
    encoded = msgspec.json.format(msgspec.json.encode(comparison))
    (args.out / RESULT_NAME).write_bytes(encoded + b"\n")
    if args.json:
        emit_json(comparison)
    else:
        print(text)
    return EXIT_FAILED if comparing.failed else EXIT_OK


class Comparing:
    """One call of the command: what was asked for, and what has come of it."""

    def __init__(self, args: argparse.Namespace, together: Workers) -> None:
        """Raises ConfigError when a preset cannot be loaded or two would stand in one folder."""
        self.args, self.together = args, together
        loaded = {name: with_epochs(load_preset(name), args.epochs) for name in args.only or default_names()}
        self.presets = list(loaded.values())
        args.named = {preset.name: name for name, preset in loaded.items()}
        if len(args.named) < len(loaded):
            raise ConfigError("--only", ("two of the presets have the same name, and would stand in one folder",))
        self.failed: dict[str, str] = {}
        self._data: PtbXl | None = None

    def train(self, preset: Preset) -> None:
        """Train a preset to its end and report it; what goes wrong is said and kept for the table."""
        try:
            train(preset, self.args, self.together)
            self._reported(run_in(self.args.out / preset.name, preset, Asked.of(self.args)))
        except EcgEdgeError as error:
            self._fail(preset.name, error)

    def comparison(self) -> Comparison:
        """Report every run that stands, and return the table."""
        machine = describe_machine()
        rows = in_order(self._rows())
        standing_names = {row.preset for row in rows}
        missing = {p.name: "not trained yet" for p in self._expected() if p.name not in standing_names} | self.failed
        return Comparison(
            data=DATA,
            folds=self.args.tune_folds,
            replicates=self.args.bootstrap,
            date=datetime.datetime.now(datetime.timezone.utc).date().isoformat(),
            command=command_of(self.args),
            processor=machine["processor"],
            rows=rows,
            missing={name: why for name, why in missing.items() if name not in standing_names},
            notes=notes_on(self.args.tune_folds, self.args.bootstrap, machine["processor"], busy(machine)),
        )

    def _rows(self) -> list[Row]:
        made: list[tuple[Run, dict[str, Any], Bundle]] = []
        for run in standing(self.args.out, self._expected(), Asked.of(self.args), self._fail):
            try:
                made.append((run, *self._reported(run)))
            except EcgEdgeError as error:
                self._fail(run.name, error)
        if made:
            say(f"timing a hop of {', '.join(run.name for run, _, _ in made)}")
        costs = hop_costs({run.name: bundle for run, _, bundle in made})
        return [row_of(run, bundle.manifest.kind, report, costs[run.name]) for run, report, bundle in made]

    def _expected(self) -> list[Preset]:
        """The presets that should stand: those that are named, and those that are compared by default."""
        named = {preset.name for preset in self.presets}
        others = [with_epochs(load_preset(name), self.args.epochs) for name in default_names() if name not in named]
        return [*self.presets, *others]

    def _reported(self, run: Run) -> tuple[dict[str, Any], Bundle]:
        args = self.args
        if self._data is None:
            self._data = open_ptbxl(args.data)
        data = relabelled(self._data, args.data, run.preset.task)
        return reported(run, data, args.tune_folds, args.limit, args.bootstrap, command_of(args, run.name))

    def _fail(self, name: str, error: EcgEdgeError) -> None:
        self.failed[name] = str(error)
        say(f"{name}: {error}")


def command_of(args: argparse.Namespace, only: str = "") -> str:
    """Return the command that does this again anywhere, for one run or all: without the folders of this machine."""
    words = ["ecg-trainer", "compare", "--data", "PTBXL_ROOT", "--out", "OUT"]
    words += ["--only", Path(args.named.get(only, only)).name] if only else []
    words += ["--folds", folds_text(args.folds), "--tune-folds", folds_text(args.tune_folds)]
    for name in ("epochs", "limit"):
        if getattr(args, name) is not None:
            words += [f"--{name}", str(getattr(args, name))]
    return shlex.join([*words, "--seed", str(args.seed)])
