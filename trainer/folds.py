"""Folds as people write them: "9", "1-8", "1-3,9"."""

from __future__ import annotations

import argparse
import re
from collections.abc import Sequence

FOLDS = range(1, 11)


def parse_folds(text: str) -> list[int]:
    """Return the folds of a list with ranges, sorted, each once; for argparse's `type`."""
    folds: set[int] = set()
    for part in text.split(","):
        matched = re.fullmatch(r"\s*(\d+)(?:\s*-\s*(\d+))?\s*", part)
        if matched is None:
            raise argparse.ArgumentTypeError(f"{text!r} is not a list of folds such as 9 or 1-8 or 1-3,9")
        first = int(matched[1])
        folds |= set(range(first, int(matched[2] or first) + 1))
    if not folds or not folds <= set(FOLDS):
        raise argparse.ArgumentTypeError(f"{text!r}: folds go from 1 to 10")
    return sorted(folds)


def folds_text(folds: Sequence[int]) -> str:
    """Write folds as `parse_folds` reads them, neighbours as a range."""
    runs: list[list[int]] = []
    for fold in sorted(folds):
        if runs and fold == runs[-1][-1] + 1:
            runs[-1].append(fold)
        else:
            runs.append([fold])
    return ",".join(f"{run[0]}-{run[-1]}" if len(run) > 1 else str(run[0]) for run in runs)
