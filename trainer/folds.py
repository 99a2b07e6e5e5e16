"""Folds as people write them: "9", "1-8", "1-3,9"."""

from __future__ import annotations

import argparse
import re

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
