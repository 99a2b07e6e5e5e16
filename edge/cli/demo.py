"""`ecg-edge demo`: everything at once, in one terminal."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console

from edge import RESEARCH_USE_ONLY
from edge.cli.output import EXIT_FAILED, EXIT_OK, emit_json, say
from edge.cli.parsing import add_command, count, positive
from edge.demo.demo import Demo, DemoError, save_picture, summary
from edge.demo.sources import choose_source
from edge.runtime.bundle import load_bundle

if TYPE_CHECKING:
    from edge.cli.parsing import Subparsers


def add_parser(subparsers: Subparsers) -> None:
    """Add `demo`."""
    parser = add_command(
        subparsers,
        "demo",
        run,
        "watch ECG become alerts: a broker, the monitor and a few patients in this terminal",
        "Plays the records named, else PTB-XL where $PTBXL_ROOT or --data says, else a few records from PhysioNet, "
        "else a simulated patient, and says which. Ends by itself; Ctrl-C ends it sooner.",
        [
            "ecg-edge demo",
            "ecg-edge demo --data ptb-xl --devices 6 --seconds 60",
            "ecg-edge demo --records RECORD RECORD --speed 1",
            "ecg-edge demo --json --seconds 20",
        ],
    )
    parser.add_argument("--records", nargs="+", type=Path, default=[], metavar="RECORD", help="WFDB records to play")
    parser.add_argument("--data", type=Path, metavar="DIR", help="a PTB-XL root to choose records from")
    parser.add_argument("--bundle", type=Path, metavar="DIR", help="a model bundle (default: the one that ships)")
    parser.add_argument("--devices", type=count, default=4, metavar="N", help="devices (default: 4)")
    parser.add_argument("--seconds", type=positive, default=40.0, metavar="S", help="how long it runs (default: 40)")
    parser.add_argument("--speed", type=positive, default=3.0, metavar="X", help="ECG seconds per second (default: 3)")
    parser.add_argument("--picture", type=Path, metavar="FILE", help="write the last frame as an SVG")


def run(args: argparse.Namespace) -> int:
    """Run the demo; 1 when nothing was scored or a part of it died."""
    load_bundle(args.bundle)  # a damaged bundle is told here, not by a child process
    source = choose_source(args.records, args.data, args.devices, args.seconds * args.speed, say)
    say(f"{source.description}, {args.devices} devices at {args.speed:g} times real time. {RESEARCH_USE_ONLY}")
    demo = Demo(source, args.seconds, args.speed, args.bundle)
    try:
        picture = demo.run(Console(stderr=True))
    except DemoError as error:
        say(f"ecg-edge demo: {error}")
        return EXIT_FAILED
    result = summary(picture, source)
    if args.picture is not None:
        save_picture(args.picture, demo, picture)
    if args.json:
        emit_json(result)
    else:
        latency = result["latency_ms"]
        counts = ", ".join(f"{result[name]} {name}" for name in ("streams", "chunks", "scores", "alerts"))
        say(f"{counts}; latency {latency['p50']} ms median, {latency['p99']} ms at 99 %")
        say(f"{result['model']} on {result['runtime']}; {source.description}")
    return EXIT_OK if picture.scores else EXIT_FAILED
