"""`ecg-edge score`: records through the streaming path, without a broker."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.box import SIMPLE
from rich.console import Console, JustifyMethod
from rich.table import Table

from edge.cli.output import EXIT_FAILED, EXIT_OK, emit_json, say
from edge.cli.parsing import add_command, positive
from edge.errors import ConfigError, EcgEdgeError
from edge.monitor.offline import hops_of, score_recordings
from edge.replay.patient import simulate
from edge.replay.records import Recording, read_recording
from edge.runtime.base import Runtime
from edge.runtime.bundle import load_bundle
from edge.runtime.select import KINDS, open_runtime
from edge.signal.quality import QualityAssessor

if TYPE_CHECKING:
    from edge.cli.parsing import Subparsers

SIMULATED_RATE_HZ = 500


def add_parser(subparsers: Subparsers) -> None:
    """Add `score`."""
    parser = add_command(
        subparsers,
        "score",
        run,
        "score WFDB records as the monitor would, without a broker",
        "Prints the class probabilities at the end of each record. A record shorter than the model's window is still "
        "warming when it ends.",
        [
            "ecg-edge score ptb-xl/records100/00000/00001_lr",
            "ecg-edge score RECORD RECORD --bundle runs/bundle --json",
            "ecg-edge score --simulate 20",
        ],
    )
    parser.add_argument("records", nargs="*", type=Path, metavar="RECORD", help="WFDB records, without ending")
    parser.add_argument("--simulate", type=positive, metavar="SECONDS", help="score a simulated patient (not real ECG)")
    parser.add_argument("--bundle", type=Path, metavar="DIR", help="a model bundle (default: the one that ships)")
    parser.add_argument("--runtime", choices=KINDS, default="auto", help="what runs the model (default: auto)")


def run(args: argparse.Namespace) -> int:
    """Score what can be scored; 1 when something could not."""
    if not args.records and args.simulate is None:
        raise ConfigError("score", ("name a RECORD, or say --simulate SECONDS",))
    runtime = open_runtime(load_bundle(args.bundle), args.runtime)
    results: list[dict[str, Any]] = []
    failures: list[dict[str, str]] = []
    for path in args.records:
        try:
            results.append(score(runtime, read_recording(path)))
        except EcgEdgeError as error:
            say(f"ecg-edge score: {path}: {error}")
            failures.append({"record": str(path), "error": str(error)})
    if args.simulate is not None:
        results.append(score(runtime, simulate(args.simulate, SIMULATED_RATE_HZ)))
    manifest = runtime.bundle.manifest
    bundle = {"name": manifest.name, "version": manifest.version, "hash": manifest.model_hash}
    if args.json:
        emit_json({"bundle": bundle, "runtime": runtime.name, "records": results, "failed": failures})
    else:
        show(runtime, results)
    return EXIT_FAILED if failures else EXIT_OK


def score(runtime: Runtime, recording: Recording) -> dict[str, Any]:
    """Score one recording from a cold state; raises LeadsError or SignalError when the model cannot take it."""
    manifest = runtime.bundle.manifest
    (scores,) = score_recordings(runtime, [recording.samples_mv], recording.rate_hz, recording.leads)
    hops = hops_of(manifest, recording.samples_mv, recording.rate_hz, recording.leads)
    assessor = QualityAssessor(manifest.leads, manifest.signal.rate_hz)
    qualities = [assessor.assess(hop.raw_mv, hop.invalid).score for hop in hops[-manifest.window_hops :]]
    last = scores[-1] if scores else None
    probabilities = dict(zip(manifest.classes, last.probabilities.tolist(), strict=True)) if last else None
    return {
        "record": recording.name,
        "source": recording.source,
        "simulated": recording.simulated,
        "seconds": round(recording.seconds, 3),
        "rate_hz": recording.rate_hz,
        "state": "ready" if last and last.ready else "warming",
        "probabilities": probabilities,
        "calls": [
            name for name, p in (probabilities or {}).items() if p >= manifest.operating_points[name].f1_threshold
        ],
        "quality": round(sum(qualities) / len(qualities), 3) if qualities else None,
    }


def show(runtime: Runtime, results: list[dict[str, Any]]) -> None:
    """Print a table; probabilities at or above the class's F1 threshold stand out."""
    manifest = runtime.bundle.manifest
    table = Table(title=f"{manifest.name} {manifest.version} on {runtime.name}", caption=manifest.notice, box=SIMPLE)
    for heading in ("record", "state", "qual.", *manifest.classes):
        justify: JustifyMethod = "left" if heading in ("record", "state") else "right"
        table.add_column(
            heading, justify=justify, no_wrap=heading != "record", min_width=9 if heading == "record" else 5
        )
    for result in results:
        probabilities = result["probabilities"] or {}
        cells = [
            f"[bold yellow]{p:.3f}*[/]" if name in result["calls"] else f"{p:.3f} " for name, p in probabilities.items()
        ]
        quality = "" if result["quality"] is None else f"{result['quality']:.2f}"
        table.add_row(result["record"], result["state"], quality, *cells)
    Console().print(table)
    say("* at or above the class's F1 threshold")
