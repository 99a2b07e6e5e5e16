"""`ecg-trainer explain`: which leads and moments a score or an alert rests on, drawn on ECG paper."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from edge.cli.output import EXIT_OK, emit_json, say
from edge.cli.parsing import add_command, positive
from edge.errors import ConfigError
from edge.runtime.bundle import load_bundle
from trainer.checkpoint import load_checkpoint
from trainer.explain.attribution import BIN_S, METHODS, Attribution, attribute
from trainer.explain.picture import FORMATS, Caption, draw_explanation, number_text, save_explanation
from trainer.explain.sources import (
    Moment,
    Source,
    locate,
    ptbxl_source,
    read_alert,
    simulated_source,
    wfdb_source,
)
from trainer.explain.subject import Subject, subject_of_bundle, subject_of_checkpoint
from trainer.explain.window import SeenWindow, window_at

if TYPE_CHECKING:
    from edge.alerts.events import AlertEvent
    from edge.cli.parsing import Subparsers

SAME_PROBABILITY = 0.01
"""A replay that comes so close to what the daemon said has met the same stream."""

WHAT_IT_SHOWS = {
    "integrated-gradients": "what each moment adds to the logit of {}, compared with a flat line",
    "gradient": "how much a change at each moment would move the logit of {}, either way",
    "occlusion": "how far the logit of {} falls when a fifth of a second, or a lead, is put flat",
}


def add_parser(subparsers: Subparsers) -> None:
    """Add `explain`."""
    parser = add_command(
        subparsers,
        "explain",
        run,
        "draw on ECG paper what a score or an alert rests on",
        "The model follows the recording as a device would, up to the end of the window; the window is then explained "
        "by captum, from the state that a streaming model had before it.",
        [
            "ecg-trainer explain --data ptb-xl --record 39 --class MI",
            "ecg-trainer explain path/to/record --at 42 --method occlusion --out why.png",
            "mosquitto_sub -C 1 -t ecg/v1/bed-1/alert > alert.json",
            "ecg-trainer explain path/to/record --alert alert.json --json",
        ],
    )
    what = parser.add_argument_group("the ECG")
    what.add_argument("wfdb", nargs="?", type=Path, metavar="RECORD", help="a WFDB record, without its ending")
    what.add_argument("--data", type=Path, metavar="DIR", help="a PTB-XL root, for --record")
    what.add_argument("--record", type=int, metavar="ECG_ID", help="a record of PTB-XL")
    what.add_argument("--simulate", type=positive, metavar="SECONDS", help="a simulated patient (not real ECG)")
    what.add_argument(
        "--at", type=positive, metavar="SECONDS", help="where the window ends in the recording (default: at its end)"
    )
    what.add_argument("--alert", type=Path, metavar="FILE", help="the alert to explain, of this recording, as JSON")
    what.add_argument(
        "--first-index", type=int, default=0, metavar="I",
        help="index in the alert's session of the recording's first sample (default: 0)",
    )  # fmt: skip
    parser.add_argument("--bundle", type=Path, metavar="DIR", help="a model bundle (default: the one that ships)")
    parser.add_argument("--checkpoint", type=Path, metavar="DIR", help="a checkpoint of any kind, instead of a bundle")
    parser.add_argument("--class", dest="class_name", metavar="NAME", help="default: the alert's, else the likeliest")
    parser.add_argument("--method", choices=list(METHODS), default=next(iter(METHODS)), help="default: %(default)s")
    parser.add_argument(
        "--out", type=Path, default=Path("explanation.png"), metavar="FILE",
        help="the picture: .png, .svg or .pdf (default: %(default)s)",
    )  # fmt: skip


def run(args: argparse.Namespace) -> int:
    """Explain one window, draw it and say what was found."""
    _check(args)
    source, subject = _source(args), _subject(args)
    alert = read_alert(args.alert) if args.alert else None
    moment = locate(alert, subject, source.recording, args.first_index) if alert else None
    window = _window(args, subject, source, moment)
    logits = window.logits()
    probabilities = subject.probabilities(logits)
    class_name = args.class_name or (moment.class_name if moment else max(probabilities, key=probabilities.__getitem__))
    if class_name not in subject.classes:
        raise ConfigError("--class", (f"{class_name} is none of {', '.join(subject.classes)}",))
    notes = [*(moment.notes if moment else []), *_comparison(alert, probabilities), *_warming(window)]
    attribution = attribute(window, class_name, args.method)
    caption = _caption(source, window, probabilities, class_name, args.method)
    figure = draw_explanation(window.samples_mv, subject.leads, subject.signal.rate_hz, attribution, caption)
    picture = save_explanation(figure, args.out)
    if args.json:
        emit_json({
            "record": source.recording.name,
            "source": source.recording.source,
            "simulated": source.recording.simulated,
            "labels": source.labels,
            "model": {"name": subject.name, "hash": subject.model_hash},
            "window": {
                "first_s": window.first_s,
                "seconds": window.seconds,
                "from": args.first_index + window.first_index,
                "to": args.first_index + window.last_index,
            },
            "class": class_name,
            "logit": logits[subject.classes.index(class_name)],
            "probability": probabilities[class_name],
            "threshold": subject.thresholds.get(class_name),
            "probabilities": probabilities,
            **_numbers(attribution, subject),
            "alert": alert,
            "notes": notes,
            "picture": picture,
        })  # fmt: skip
    else:
        _print(caption, attribution, subject, notes, picture)
    return EXIT_OK


def _check(args: argparse.Namespace) -> None:
    """Raise ConfigError unless just one recording and at most one model are named."""
    named = [args.wfdb is not None, args.record is not None, args.simulate is not None]
    problems = []
    if sum(named) != 1:
        problems.append("name one recording: a WFDB RECORD, --data DIR --record ECG_ID, or --simulate SECONDS")
    if (args.record is None) != (args.data is None):
        problems.append("--data and --record go together")
    if args.bundle is not None and args.checkpoint is not None:
        problems.append("name a --bundle or a --checkpoint")
    if args.alert is not None and args.at is not None:
        problems.append("an --alert says itself where its window ends; leave out --at")
    if args.out.suffix.lower() not in FORMATS:
        problems.append(f"--out must end in {', '.join(FORMATS)}")
    if problems:
        raise ConfigError("explain", tuple(problems))


def _source(args: argparse.Namespace) -> Source:
    if args.wfdb is not None:
        return wfdb_source(args.wfdb)
    return simulated_source(args.simulate) if args.simulate else ptbxl_source(args.data, args.record)


def _subject(args: argparse.Namespace) -> Subject:
    if args.checkpoint is not None:
        return subject_of_checkpoint(load_checkpoint(args.checkpoint))
    return subject_of_bundle(load_bundle(args.bundle))


def _window(args: argparse.Namespace, subject: Subject, source: Source, moment: Moment | None) -> SeenWindow:
    if moment is not None:
        return window_at(subject, source.recording, moment.last_index, moment.start)
    last = None if args.at is None else round(args.at * source.recording.rate_hz) - 1
    return window_at(subject, source.recording, last)


def _comparison(alert: AlertEvent | None, probabilities: dict[str, float]) -> list[str]:
    """Say so when the replay does not come to what the daemon said."""
    if alert is None or alert.probability is None or alert.class_name is None:
        return []
    now = probabilities[alert.class_name]
    if abs(now - alert.probability) <= SAME_PROBABILITY:
        return []
    return [
        f"the daemon said {alert.class_name} {alert.probability:.3f}, the replay of this recording says {now:.3f}: the "
        "stream had another past (a restart, a gap), or model and recording are not the alert's"
    ]


def _warming(window: SeenWindow) -> list[str]:
    full_s = window.subject.window_samples / window.subject.signal.rate_hz
    if window.seconds >= full_s:
        return []
    return [f"the stream was still warming: {window.seconds:g} s of a window of {full_s:g} s"]


def _caption(
    source: Source, window: SeenWindow, probabilities: dict[str, float], class_name: str, method: str
) -> Caption:
    """Put what is to be read around the picture into words."""
    subject = window.subject
    threshold = subject.thresholds.get(class_name)
    called = "" if threshold is None else f" (called from {threshold:.2f} on)"
    others = "   ".join(f"{name} {p:.2f}" for name, p in probabilities.items() if name != class_name)
    low_hz, high_hz = subject.signal.band_hz
    labels = f": {', '.join(source.labels)}" if source.labels else ""
    span = f"{round(window.first_s, 2):g}–{round(window.first_s + window.seconds, 2):g} s"
    return Caption(
        title=f"{source.title}{labels}, {span}",
        score=f"{class_name} {probabilities[class_name]:.2f}{called} by {subject.name}      {others}",
        method=f"{method.replace('-', ' ').capitalize()}: {WHAT_IT_SHOWS[method].format(class_name)}",
        scale=f"{low_hz:g}–{high_hz:g} Hz",
        source=source.credit,
        first_s=window.first_s,
    )


def _numbers(attribution: Attribution, subject: Subject) -> dict[str, Any]:
    """Return an attribution as numbers per lead and per tenth of a second."""
    bins = attribution.bins(subject.signal.rate_hz)
    order = np.argsort(-attribution.leads, kind="stable")
    return {
        "method": attribution.method,
        "unit": attribution.unit,
        "signed": attribution.signed,
        "leads": dict(zip(subject.leads, attribution.leads.tolist(), strict=True)),
        "most_salient": [subject.leads[k] for k in order],
        "bin_s": BIN_S,
        "bins": {lead: bins[:, k].tolist() for k, lead in enumerate(subject.leads)},
        "completeness": attribution.complete,
    }


def _print(caption: Caption, attribution: Attribution, subject: Subject, notes: list[str], picture: Path) -> None:
    for line in (caption.title, caption.score, caption.method):
        print(line)
    strongest = sorted(zip(attribution.leads.tolist(), subject.leads, strict=True), reverse=True)
    print("   ".join(f"{lead} {number_text(value, attribution.signed)}" for value, lead in strongest), attribution.unit)
    for line in [*notes, f"wrote {picture}"]:
        say(line)
