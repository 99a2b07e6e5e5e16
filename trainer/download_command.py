"""`ecg-trainer download`: PTB-XL from PhysioNet."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from edge.cli.output import EXIT_OK, emit_json, say
from edge.cli.parsing import add_command
from trainer.cli import n_records
from trainer.download import SOURCE, Download
from trainer.folds import parse_folds
from trainer.progress import progress

if TYPE_CHECKING:
    from edge.cli.parsing import Subparsers


def add_parser(subparsers: Subparsers) -> None:
    """Add `download`."""
    parser = add_command(
        subparsers,
        "download",
        run,
        "fetch PTB-XL (100 Hz, about 0.5 GB in 43,600 small files) from PhysioNet",
        "Checks every file's SHA-256, keeps what is there and goes on where it was interrupted.",
        [
            "ecg-trainer download --out ptb-xl",
            "ecg-trainer download --out ptb-xl --folds 9 --limit 200",
        ],
    )
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="the PTB-XL root to make or complete")
    parser.add_argument("--folds", type=parse_folds, help="fetch these folds only (default: all)")
    parser.add_argument("--limit", type=n_records, metavar="N", help="fetch the first N records only")
    parser.add_argument("--source", default=SOURCE, metavar="URL", help=f"a mirror to fetch from (default: {SOURCE})")


def run(args: argparse.Namespace) -> int:
    """Fetch what is missing."""
    download = Download(args.out, args.source)
    sums = download.sums()
    download.tables(sums)
    files = download.records(sums, args.folds, args.limit)
    with progress() as bar:
        task = bar.add_task("fetching PTB-XL", total=len(files))
        fetched = download.run(files, on_file=lambda: bar.advance(task))
    say(f"{args.out}: {len(files) // 2:,} records, {fetched:,} files fetched, all with the SHA-256 stated")
    if args.json:
        emit_json({"root": str(args.out), "records": len(files) // 2, "files": len(files), "fetched": fetched})
    return EXIT_OK
