"""Figures by sex and age: the same scores, measured on the records of one group at a time."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from trainer.ptbxl import PtbXl
from trainer.stream_evaluation.auc import Scores, compare
from trainer.stream_evaluation.result import GroupRow

Float32Array = NDArray[np.float32]
Rows = NDArray[np.int64]

SEXES = {0: "male", 1: "female"}
"""As PTB-XL writes them."""
AGE_GROUPS = ((0, 40), (40, 60), (60, 80), (80, 1000))
"""From, up to but not including. Ages above 89 stand as 300 in PTB-XL."""


def group_rows(
    data: PtbXl, rows: Rows, labels: Float32Array, scores: Scores, classes: Sequence[str], replicates: int
) -> list[GroupRow]:
    """Measure scores and labels of these rows, both (records, classes), in every group that has records."""
    return [
        GroupRow(by, name, compare(labels[members], [scores[members]], classes, replicates)[0])
        for by, name, members in _groups(data, rows)
        if members.any()
    ]


def _groups(data: PtbXl, rows: Rows) -> Iterator[tuple[str, str, NDArray[np.bool_]]]:
    sexes, ages = data.sexes[rows], data.ages[rows]
    for code, name in SEXES.items():
        yield "sex", name, sexes == code
    for low, high in AGE_GROUPS:
        yield "age", _span(low, high), (ages >= low) & (ages < high)


def _span(low: int, high: int) -> str:
    return f"{low} and over" if high == AGE_GROUPS[-1][1] else f"{low}-{high - 1}"
