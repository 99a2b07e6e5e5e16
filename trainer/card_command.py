"""`ecg-trainer card`: the model card of a bundle, from what was measured."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from edge.cli.output import EXIT_OK, emit_json, say
from edge.cli.parsing import add_command
from edge.runtime.bundle import load_bundle
from trainer.card.sources import read_sources
from trainer.card.write import CARD_NAME, PLOTS_NAME, write_card

if TYPE_CHECKING:
    from edge.cli.parsing import Subparsers


def add_parser(subparsers: Subparsers) -> None:
    """Add `card`."""
    parser = add_command(
        subparsers,
        "card",
        run,
        "write a bundle's model card",
        f"Makes {CARD_NAME} and {PLOTS_NAME}/ from the manifest and the JSON of evaluations, and of nothing else.",
        [
            "ecg-trainer stream-evaluate --data ptb-xl --bundle bundles/mine --json > streams.json",
            "ecg-trainer card --bundle bundles/mine --evaluation streams.json --table recipe.json",
        ],
    )
    parser.add_argument("--bundle", type=Path, metavar="DIR", help="a model bundle (default: the one that ships)")
    parser.add_argument(
        "--evaluation", type=Path, action="append", default=[], metavar="FILE",
        help="JSON of evaluate or stream-evaluate; may be given more than once",
    )  # fmt: skip
    parser.add_argument(
        "--seed", type=Path, action="append", default=[], metavar="FILE",
        help="JSON of evaluate or stream-evaluate of the same recipe trained with another seed; more than once",
    )  # fmt: skip
    parser.add_argument(
        "--table", type=Path, action="append", default=[], metavar="FILE",
        help="JSON of study, or any other with title, columns and rows, and command, date, notes if there are any",
    )  # fmt: skip
    parser.add_argument("--out", type=Path, metavar="DIR", help="where to write it (default: the bundle's folder)")


def run(args: argparse.Namespace) -> int:
    """Write the card and say where it is."""
    bundle = load_bundle(args.bundle)
    paths = write_card(args.out or bundle.path, read_sources(bundle, args.evaluation, args.seed, args.table))
    if args.json:
        emit_json({"card": paths[0], "plots": paths[1:], "plot_bytes": sum(path.stat().st_size for path in paths[1:])})
    else:
        for path in paths:
            say(f"wrote {path}")
    return EXIT_OK
