"""Where the ECG to be explained comes from: PTB-XL, a WFDB record or a simulated patient; and an alert in it."""

from __future__ import annotations

import ast
from dataclasses import dataclass
from pathlib import Path

from edge.alerts.events import AlertEvent, decode
from edge.errors import PayloadError, RecordError
from edge.replay.patient import simulate
from edge.replay.records import Recording, read_recording
from trainer.explain.subject import Subject
from trainer.explain.window import hops_until, last_of_hop, runs_until
from trainer.ptbxl import CLASSES, read_statements, read_table, superclass_labels

SIMULATED_RATE_HZ = 500
PTBXL_CREDIT = "ECG: PTB-XL, Wagner et al. 2020, CC BY 4.0."


@dataclass(frozen=True)
class Source:
    """A recording and the words about it."""

    recording: Recording
    title: str
    credit: str = ""
    labels: tuple[str, ...] = ()
    """Superclasses that cardiologists gave it."""


@dataclass(frozen=True)
class Moment:
    """What an alert was about, in the samples of the recording it belongs to."""

    class_name: str
    last_index: int
    start: int
    """Where the stream began, or began anew, to have a hop end there."""
    notes: list[str]


def ptbxl_source(root: Path, ecg_id: int) -> Source:
    """Return a 100 Hz record of PTB-XL by its number; raises RecordError when the root does not hold it."""
    table = read_table(root)
    if ecg_id not in table.index:
        raise RecordError(f"{root} holds no 100 Hz record {ecg_id}")
    row = table.loc[ecg_id]
    codes = frozenset(ast.literal_eval(row["scp_codes"]))
    stated = superclass_labels([codes], read_statements(root))[0]
    labels = tuple(name for name, present in zip(CLASSES, stated, strict=True) if present)
    return Source(read_recording(root / row["filename_lr"]), f"PTB-XL record {ecg_id}", PTBXL_CREDIT, labels)


def wfdb_source(path: Path) -> Source:
    """Return a WFDB record; raises RecordError when it cannot be read."""
    recording = read_recording(path)
    return Source(recording, f"Record {recording.name}")


def simulated_source(seconds: float) -> Source:
    """Return so many seconds of the simulated patient."""
    return Source(simulate(seconds, SIMULATED_RATE_HZ), "Simulated patient", "Simulated: not a real ECG.")


def read_alert(path: Path) -> AlertEvent:
    """Read an alert as the daemon published it, as JSON; raises RecordError for what is not one."""
    try:
        return decode(path.read_bytes())
    except OSError as error:
        raise RecordError(f"alert {path} cannot be read: {error.strerror}") from None
    except PayloadError as error:
        raise RecordError(f"{path} is not an alert as published on ecg/v1/<device>/alert: {error.detail}") from None


def locate(alert: AlertEvent, subject: Subject, recording: Recording, first_index: int = 0) -> Moment:
    """Find the window an alert rests on in a recording whose first sample has this index in the session.

    Raises RecordError for a condition without a class, and when alert, model and recording do not belong together.
    """
    if alert.class_name is None:
        raise RecordError(f"the alert {alert.code} is technical: no class and so no score to explain")
    if alert.class_name not in subject.classes:
        raise RecordError(f"the alert is about {alert.class_name}, which {subject.name} does not know; name its bundle")
    _check_rate(alert, subject, recording)
    index = alert.at.i if alert.window is None else alert.window.last
    last = index - first_index
    if not 0 <= last < len(recording.samples_mv):
        raise RecordError(
            f"the alert is about sample {index} of its session; {recording.name} holds {first_index} to "
            f"{first_index + len(recording.samples_mv) - 1} (its first sample is --first-index)"
        )
    notes = []
    if alert.model is not None and alert.model.hash != subject.model_hash:
        notes.append(f"the alert came from another model ({alert.model.name}): this is what {subject.name} makes of it")
    start = _start_before(subject, recording, last)
    if start:
        notes.append(
            f"the stream had begun anew within the session: it is followed from sample {first_index + start} on, where "
            "the hops fit, and not from where it did"
        )
    return Moment(alert.class_name, last, start, notes)


def _check_rate(alert: AlertEvent, subject: Subject, recording: Recording) -> None:
    if alert.window is None or alert.window.first == 0:
        return
    samples = alert.window.last - alert.window.first + 1
    expected = round(subject.window_samples / subject.signal.rate_hz * recording.rate_hz)
    if samples != expected:
        raise RecordError(
            f"the alert's window has {samples} samples, one of {subject.name} at {recording.name}'s "
            f"{recording.rate_hz} Hz {expected}: recording, bundle and alert do not belong together"
        )


def _start_before(subject: Subject, recording: Recording, last: int) -> int:
    """Return the first sample that a stream can have begun with for a hop of it to end at `last`."""
    afresh = runs_until(subject, recording, 0, last)[-1].index
    for start in range(afresh, last + 1):
        hops = hops_until(subject, recording.rate_hz, last - start)
        fits = hops and last_of_hop(subject, recording.rate_hz, hops) == last - start
        if fits and runs_until(subject, recording, start, last)[-1].index == start:  # not within a lead's absence
            return 0 if start == afresh else start
    raise RecordError(f"less than a hop comes before sample {last} of the recording, where the alert was decided")
