"""Folds as people write them: "9", "1-8", "1-3,9"."""

from __future__ import annotations

import argparse
import re
from collections.abc import Sequence

from edge.errors import ConfigError

FOLDS = range(1, 11)
TEST_FOLD = 10


def parse_folds(text: str) -> list[int]:
    """Return the folds of a list with ranges, sorted, each once; for argparse's `type`."""
    folds: set[int] = set()
    for part in text.split(","):
        matched = re.fullmatch(r"\s*(\d+)(?:\s*-\s*(\d+))?\s*", part)
        if matched is None:
            raise argparse.ArgumentTypeError(f"{text!r} is not a list of folds such as 9 or 1-8 or 1-3,9")
        first, last = int(matched[1]), int(matched[2] or matched[1])
        if not FOLDS.start <= first <= last < FOLDS.stop:
            raise argparse.ArgumentTypeError(f"{text!r}: folds go from 1 to 10")
        folds |= set(range(first, last + 1))
    return sorted(folds)


def tuning_folds(text: str) -> list[int]:
    """Return folds that something may be chosen on; for argparse's `type`."""
    folds = parse_folds(text)
    if TEST_FOLD in folds:
        raise argparse.ArgumentTypeError(f"fold {TEST_FOLD} is the test fold: nothing is tuned on it")
    return folds


def refuse_overlap(folds: Sequence[int], tune_folds: Sequence[int]) -> None:
    """Raise ConfigError when a fold is both to train on and to tune on: figures of it would mean nothing."""
    both = sorted(set(folds) & set(tune_folds))
    if both:
        named = f"fold {both[0]} is" if len(both) == 1 else f"folds {folds_text(both)} are"
        fault = f"{named} among --tune-folds too: leave out of one what stands in the other"
        raise ConfigError(f"--folds {folds_text(folds)}", (fault,))


def folds_text(folds: Sequence[int]) -> str:
    """Write folds as `parse_folds` reads them, neighbours as a range."""
    runs: list[list[int]] = []
    for fold in sorted(folds):
        if runs and fold == runs[-1][-1] + 1:
            runs[-1].append(fold)
        else:
            runs.append([fold])
    return ",".join(f"{run[0]}-{run[-1]}" if len(run) > 1 else str(run[0]) for run in runs)
