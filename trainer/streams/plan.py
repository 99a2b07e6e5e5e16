"""Which records streams play, with the truth of every moment: for false alerts, and for how soon a change is noticed.

Three kinds of streams, all of records with a single superclass:

- *restless*: records of NORM alone, another patient every 10 s. The hardest case for false alerts: 360 hearts an hour.
- *steady*: records of NORM alone, each played over and over for a minute, as real patients stay themselves: 60 hearts
  an hour, and whoever is mistaken for ill is so for a minute.
- *switches*: a minute of one NORM patient, a minute of a patient with one other class, and so on in turn.

Every stream holds patients of one random half of the patients only, so that what was chosen on one half can be measured
on the other.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from trainer.ptbxl import PtbXl
from trainer.streams.play import RECORD_S

Rows = NDArray[np.int64]

HEALTHY = "NORM"
HALVES = (0, 1)
RESTLESS, STEADY, SWITCHES = "restless", "steady", "switches"
HEALTHY_STREAMS = (RESTLESS, STEADY)


@dataclass(frozen=True)
class PlanSettings:
    """How much is played."""

    stream_s: float = 600.0
    patient_s: float = 60.0
    """How long a patient stays, but in restless streams."""
    passes: int = 2
    """How often each record is played in restless streams, every time among others."""
    seed: int = 0


@dataclass(frozen=True)
class Episode:
    """A patient with one class, after a NORM patient: the class begins at this turn of the stream."""

    turn: int
    class_name: str


@dataclass(frozen=True)
class Plan:
    """What one stream plays."""

    kind: str
    half: int
    rows: Rows  # (turns,) a record each
    episodes: tuple[Episode, ...] = ()


def plan_streams(data: PtbXl, rows: Rows, settings: PlanSettings) -> list[Plan]:
    """Return the streams that these records make; the same data and settings give the same.

    There are none when a half of the patients has no record of NORM alone, or NORM is no class of the labels.
    """
    if HEALTHY not in data.classes:
        return []
    rng = np.random.default_rng(settings.seed)
    single = rows[data.labels[rows].sum(axis=1) == 1]
    shown = data.labels[single].argmax(axis=1)
    half = patient_halves(data.patient_ids[single], shown, rng)
    plans: list[Plan] = []
    for h in HALVES:
        normal = single[(half == h) & (shown == data.classes.index(HEALTHY))]
        if not len(normal):
            return []
        ill = {name: single[(half == h) & (shown == k)] for k, name in enumerate(data.classes) if name != HEALTHY}
        plans += _normal_streams(normal, h, settings, rng)
        plans += _switch_streams(normal, ill, h, settings, rng)
    return plans


def patient_halves(
    patients: NDArray[np.int64], shown: NDArray[np.int64], rng: np.random.Generator
) -> NDArray[np.int64]:
    """Return 0 or 1 for each record: all records of a patient are in one half, and both halves have alike shares.

    `shown` is the class of each record; a patient counts as of the class of the first.
    """
    names, first, patient_of = np.unique(patients, return_index=True, return_inverse=True)
    shuffled = rng.permutation(len(names))
    by_class = shuffled[np.argsort(shown[first][shuffled], kind="stable")]
    half = np.empty(len(names), dtype=np.int64)
    half[by_class] = np.arange(len(names)) % 2
    return half[patient_of]


def _normal_streams(normal: Rows, half: int, settings: PlanSettings, rng: np.random.Generator) -> Iterator[Plan]:
    turns, stay = _turns(settings.stream_s), _turns(settings.patient_s)
    restless = np.concatenate([rng.permutation(normal) for _ in range(settings.passes)])
    steady = np.repeat(rng.permutation(normal), stay)
    for kind, played in ((RESTLESS, restless), (STEADY, steady)):
        for start in range(0, len(played), turns):
            yield Plan(kind, half, played[start : start + turns])


def _switch_streams(
    normal: Rows, ill: dict[str, Rows], half: int, settings: PlanSettings, rng: np.random.Generator
) -> Iterator[Plan]:
    """Give every record of another class an episode, in random order, each after a NORM patient."""
    stay = _turns(settings.patient_s)
    episodes = [(int(row), name) for name, of_class in ill.items() for row in of_class]
    episodes = [episodes[k] for k in rng.permutation(len(episodes))]
    before = np.resize(rng.permutation(normal), len(episodes))
    together = max(1, _turns(settings.stream_s) // (2 * stay))
    for start in range(0, len(episodes), together):
        part = episodes[start : start + together]
        pairs = [row for k, (ill_row, _) in enumerate(part) for row in (int(before[start + k]), ill_row)]
        marks = tuple(Episode((2 * k + 1) * stay, name) for k, (_, name) in enumerate(part))
        yield Plan(SWITCHES, half, np.repeat(np.array(pairs, dtype=np.int64), stay), marks)


def _turns(seconds: float) -> int:
    return max(1, round(seconds / RECORD_S))
