"""`ecg-trainer stream-evaluate`: how a bundle behaves on streams that do not end."""

from __future__ import annotations

import argparse
import datetime
import os
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec
from rich.console import Console

from edge.cli.output import EXIT_OK, emit_json, say
from edge.cli.parsing import add_command
from edge.runtime.bundle import load_bundle
from edge.runtime.select import KINDS, open_runtime
from trainer.cli import any_seed, n_replicates
from trainer.folds import folds_text, parse_folds
from trainer.predict import TABLE_HELP, open_labelled
from trainer.report import DATA, fold_notes, measured_model, sheet_table
from trainer.stream_evaluation.measure import FULL, PARTS, QUICK, Evaluation, chosen_rows
from trainer.stream_evaluation.plots import write_stream_plots
from trainer.stream_evaluation.result import StreamEvaluation
from trainer.stream_evaluation.sheets import sheets_of
from trainer.streams.play import JOINS, RECORD_S, hops_per_record

if TYPE_CHECKING:
    from edge.cli.parsing import Subparsers

NSTDB_VARIABLE = "NSTDB_ROOT"
DEFAULT_REPLICATES = 500


def add_parser(subparsers: Subparsers) -> None:
    """Add `stream-evaluate`."""
    parser = add_command(
        subparsers,
        "stream-evaluate",
        run,
        "measure a bundle on endless streams",
        "Parts: warm (AUC after minutes of other patients' ECG), seconds (AUC against time since a record began), "
        "groups (by sex and age), alerts (false alerts and detection delay on streams with known switches), "
        "robustness (noise, lost leads, gaps, hum, gain).",
        [
            "ecg-trainer stream-evaluate --data ptb-xl --nstdb nstdb --plots plots --json",
            "ecg-trainer stream-evaluate --data ptb-xl --only alerts",
        ],
    )
    parser.add_argument("--data", type=Path, required=True, metavar="DIR", help="a PTB-XL root, with all folds or some")
    parser.add_argument("--bundle", type=Path, metavar="DIR", help="a model bundle (default: the one that ships)")
    parser.add_argument("--folds", type=parse_folds, default="9", help="such as 9 or 1-3,9 (default: 9)")
    parser.add_argument("--only", nargs="+", choices=PARTS, default=PARTS, metavar="PART", help=", ".join(PARTS))
    parser.add_argument(
        "--nstdb", type=Path, default=os.environ.get(NSTDB_VARIABLE), metavar="DIR",
        help=f"PhysioNet's noise stress test database, for the noise curves (default: {NSTDB_VARIABLE})",
    )  # fmt: skip
    parser.add_argument("--table", type=Path, metavar="FILE", help=TABLE_HELP)
    parser.add_argument("--plots", type=Path, metavar="DIR", help="write plots here")
    parser.add_argument("--joins", choices=JOINS, default=JOINS[0], help="how records meet (default: matched)")
    parser.add_argument("--runtime", choices=KINDS, default="auto", help="what streams run on (default: auto)")
    parser.add_argument(
        "--seed", type=any_seed, default=0, help="of the order of records (default: 0); noise goes by the record"
    )
    parser.add_argument("--quick", action="store_true", help="a few records and streams: to try it out")
    parser.add_argument(
        "--bootstrap", type=n_replicates, default=DEFAULT_REPLICATES, metavar="N",
        help=f"replicates behind the 95 %% intervals, 0 for none (default: {DEFAULT_REPLICATES})",
    )  # fmt: skip


def run(args: argparse.Namespace) -> int:
    """Measure the parts that are asked for and print them."""
    start_s = time.monotonic()
    result = evaluate(args)
    if args.plots is not None:
        paths = write_stream_plots(args.plots, result)
        result = msgspec.structs.replace(result, plots=[str(path) for path in paths])
    result = msgspec.structs.replace(result, took_s=round(time.monotonic() - start_s, 1))
    if args.json:
        emit_json(result)
        return EXIT_OK
    console = Console(file=sys.stdout)
    for sheet in sheets_of(result).values():
        console.print(sheet_table(sheet))
    for line in [*result.notes, *(f"wrote {path}" for path in result.plots)]:
        say(line)
    return EXIT_OK


def evaluate(args: argparse.Namespace) -> StreamEvaluation:
    """Do what the arguments ask for."""
    bundle = load_bundle(args.bundle)
    hops_per_record(bundle)
    data = open_labelled(bundle, args.data, args.table)
    manifest, amount = bundle.manifest, QUICK if args.quick else FULL
    rows = chosen_rows(data, args.folds, amount, args.seed)
    runtime = open_runtime(bundle, args.runtime, os.cpu_count() or 1)
    evaluation = Evaluation(runtime, data, rows, amount, args.seed, args.joins, args.bootstrap)
    minutes = amount.minutes if "warm" in args.only else (amount.after_minutes,)
    said = evaluation.scored(minutes) if {"warm", "seconds", "groups"} & set(args.only) else {}
    nstdb = args.nstdb if args.nstdb is not None and (Path(args.nstdb) / "em.hea").is_file() else None
    alerts = evaluation.alerts() if "alerts" in args.only else None
    return StreamEvaluation(
        bundle=measured_model(manifest),
        data=DATA,
        folds=args.folds,
        n_records=len(rows),
        classes=manifest.classes,
        date=datetime.datetime.now(datetime.timezone.utc).date().isoformat(),
        command=_command(args),
        runtime=runtime.name,
        seed=args.seed,
        joins=args.joins,
        replicates=args.bootstrap,
        warm_streams=amount.streams,
        after_minutes=amount.after_minutes,
        warm=evaluation.warm(said) if "warm" in args.only else None,
        seconds=evaluation.seconds(said) if "seconds" in args.only else None,
        groups=evaluation.groups(said) if "groups" in args.only else None,
        windows=evaluation.windows() if "windows" in args.only else None,
        alerts=alerts,
        robustness=evaluation.robustness(nstdb) if "robustness" in args.only else None,
        notes=[*fold_notes(manifest, args.folds), *_notes(args, manifest.window_s, nstdb is None, alerts is None)],
    )


def _notes(args: argparse.Namespace, window_s: float, no_noise: bool, no_alerts: bool) -> list[str]:
    only = set(args.only)
    found = {
        "quick: a few records and streams, too few for figures to be relied on": args.quick,
        f"the window of {window_s:g} s is longer than a record: warm scores still hold other ECG": window_s > RECORD_S,
        f"no noise curves: name PhysioNet's nstdb by --nstdb or {NSTDB_VARIABLE}": no_noise and "robustness" in only,
        "no alert figures: streams take two patients or more with records of NORM alone": (
            no_alerts and "alerts" in only
        ),
    }
    return [note for note, holds in found.items() if holds]


def _command(args: argparse.Namespace) -> str:
    """Return the command in words that hold on any machine."""
    words = ["ecg-trainer stream-evaluate --data PTBXL_ROOT"]
    words += [f"--bundle {args.bundle.resolve().name}"] if args.bundle else []
    words += [f"--table {args.table.name}"] if args.table else []
    words += [f"--folds {folds_text(args.folds)}"]
    words += [f"--only {' '.join(args.only)}"] if set(args.only) != set(PARTS) else []
    words += ["--nstdb NSTDB_ROOT"] if "robustness" in args.only and args.nstdb is not None else []
    words += [f"--joins {args.joins}"] if args.joins != JOINS[0] else []
    words += ["--quick"] if args.quick else []
    return " ".join([*words, f"--seed {args.seed} --json"])
