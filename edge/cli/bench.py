"""`ecg-edge bench`: what this machine carries, each comparison in one run."""

from __future__ import annotations

import argparse
import contextlib
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console

from edge.bench.effort import FULL, ILL_SHARE, LOAD_SECONDS, PARTS, QUICK
from edge.cli.output import EXIT_OK, emit_json, say
from edge.cli.parsing import add_command, count, positive, share
from edge.runtime.bundle import load_bundle
from edge.runtime.select import KINDS

PIPED_WIDTH = 120
MOST_STREAMS = 50_000

if TYPE_CHECKING:
    from edge.cli.parsing import Subparsers


def add_parser(subparsers: Subparsers) -> None:
    """Add `bench`."""
    parser = add_command(
        subparsers,
        "bench",
        run,
        "measure this machine: runtimes, limit, daemon under load, cold start",
        "Every figure is a comparison within one run: runtimes take turns, against one another, against what would be "
        "done otherwise and against what a core can do at best; the daemon is loaded through a mosquitto with more and "
        "more streams until it holds no more. Takes about ten minutes and wants a machine that does nothing else. With "
        "--streams it is one load instead, as long as you like: latency, CPU and memory as time goes on.",
        [
            "ecg-edge bench --quick",
            "ecg-edge bench --only runtimes --json",
            "ecg-edge bench --only daemon --runtime onnxruntime",
            "ecg-edge bench --streams 3000 --seconds 600",
        ],
    )
    what = parser.add_mutually_exclusive_group()
    what.add_argument("--only", choices=PARTS, help="measure one part (default: both)")
    what.add_argument("--streams", type=_streams, metavar="N", help="load the daemon with so many streams only")
    parser.add_argument(
        "--seconds", type=positive, default=LOAD_SECONDS, metavar="S",
        help="how long --streams loads it (default: %(default)g)",
    )  # fmt: skip
    parser.add_argument(
        "--ill-share", type=share, default=ILL_SHARE, metavar="X",
        help="of --streams: patients who fall ill and recover every minute (default: %(default)g)",
    )  # fmt: skip
    parser.add_argument("--quick", action="store_true", help="a first look in less than a minute")
    parser.add_argument("--bundle", type=Path, metavar="DIR", help="a model bundle (default: the one that ships)")
    parser.add_argument("--runtime", choices=KINDS, default="auto", help="what the daemon runs (default: auto)")
    parser.add_argument(
        "--rivals", type=Path, metavar="FILE", help="a Python file whose rivals(bundle) adds what to compare with"
    )


def run(args: argparse.Namespace) -> int:
    """Measure and print. What measures is imported here: a daemon that starts should not wait for it."""
    from edge.bench.report import run_bench, run_load_test
    from edge.bench.table import show

    bundle = load_bundle(args.bundle)
    parts, effort = PARTS if args.only is None else (args.only,), QUICK if args.quick else FULL
    with ends_like_ctrl_c():
        if args.streams is not None:
            result = run_load_test(bundle, args.streams, args.seconds, args.ill_share, say, args.runtime)
        else:
            result = run_bench(bundle, effort, parts, say, args.runtime, args.rivals)
    if args.json:
        emit_json(result)
    else:
        console = Console()
        show(result, console if console.is_terminal else Console(width=PIPED_WIDTH))
    return EXIT_OK


def _streams(text: str) -> int:
    """Read a number of streams."""
    return count(text, MOST_STREAMS)


@contextlib.contextmanager
def ends_like_ctrl_c() -> Iterator[None]:
    """Let SIGTERM end the run as Ctrl-C does: no broker and no daemon is left behind."""
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
