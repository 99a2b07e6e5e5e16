"""What a model is asked: PTB-XL's superclasses, other views of its SCP statements, or a table of the user's own.

[task]
labels = "scp"           # the most frequent diagnostic statements, one class each
top = 5
min_likelihood = 50
"""

from __future__ import annotations

import csv
import re
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Literal

import msgspec
import numpy as np
import pandas as pd
from numpy.typing import NDArray

from edge.errors import EcgEdgeError, RecordError
from trainer.ptbxl import CLASSES, STATEMENTS_TABLE, PtbXl, open_ptbxl

Float32Array = NDArray[np.float32]

ID_COLUMN = "ecg_id"
ID = re.compile("[0-9]{1,18}")
"""What a record is called: a number that 64 bits hold."""
LONGEST_NAME = 64
"""What a bundle's manifest and a topic take."""
TRAINING_FOLDS = range(1, 9)
OUTPUTS = {"superclass": len(CLASSES), "subclass": 23, "statements": 71, "rhythm": 12}
"""How many classes PTB-XL 1.0.3 has by each view of its statements."""


class TaskPreset(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Which labels, and which records have them."""

    labels: Literal["superclass", "subclass", "statements", "rhythm", "scp", "table"] = "superclass"
    """The five diagnostic superclasses, their subclasses, all SCP statements, those of rhythm, the `top` most frequent
    diagnostic ones, or a `table`."""
    min_likelihood: Annotated[float, msgspec.Meta(ge=0.0, le=100.0)] = 0.0
    """Percent from which a statement counts; 0 counts those of unknown likelihood too."""
    top: Annotated[int, msgspec.Meta(ge=1, le=71)] = 5
    table: str = ""
    """A CSV file of records and 0/1 columns, one class each, see `class_name`; its path is relative to the preset."""
    unlabelled: Literal["left_out", "negative"] = "left_out"
    """What becomes of records without any of the classes. Those of a table are always kept, those it lacks never."""

    def __post_init__(self) -> None:
        """Raises ValueError, which msgspec reports with the place, for settings that do not go together."""
        if (self.labels == "table") != bool(self.table):
            raise ValueError('labels = "table" and the path of a table belong together')
        if self.labels == "table" and self.min_likelihood > 0:
            raise ValueError("a table knows no likelihood")

    @property
    def outputs(self) -> int:
        """How many classes there are; raises LabelTableError when that is a table's to say and it cannot be read."""
        if self.labels == "table":
            return len(read_table_labels(Path(self.table))[1])
        return self.top if self.labels == "scp" else OUTPUTS[self.labels]


class LabelTableError(EcgEdgeError):
    """A table of labels that cannot be used."""

    def __init__(self, path: Path, problem: str) -> None:
        self.path, self.problem = path, problem
        super().__init__(f"table of labels {path}: {problem}")


def open_task(root: Path, task: TaskPreset, cache_dir: Path | None = None) -> PtbXl:
    """Open a PTB-XL root with the labels of a task; raises RecordError, or LabelTableError for a user's table."""
    return relabelled(open_ptbxl(root, cache_dir), root, task)


def relabelled(data: PtbXl, root: Path, task: TaskPreset) -> PtbXl:
    """Return the records of an opened root with the labels of a task; raises what `open_task` does."""
    if task == TaskPreset():
        return data
    if task.labels == "table":
        return with_table(data, Path(task.table))
    classes, members = class_members(data, root, task)
    stated = data.likelihoods >= task.min_likelihood  # NaN is never at least anything
    labels = np.stack([stated[:, of_class].any(1) for of_class in members], axis=1).astype(np.float32)
    labelled = np.asarray(labels.any(1)) if task.unlabelled == "left_out" else np.ones(len(labels), bool)
    return replace(data, labels=labels, labelled=labelled, classes=classes)


def class_members(data: PtbXl, root: Path, task: TaskPreset) -> tuple[tuple[str, ...], list[list[int]]]:
    """Return the classes of a task and which statements, by column, make each of them."""
    catalogue = pd.read_csv(root / STATEMENTS_TABLE, index_col=0)
    diagnostic = catalogue["diagnostic"] == 1
    if task.labels in ("superclass", "subclass"):
        column = "diagnostic_class" if task.labels == "superclass" else "diagnostic_subclass"
        names = catalogue[column].where(diagnostic)
        labels = CLASSES if task.labels == "superclass" else tuple(sorted(names.dropna().unique()))
        return tuple(map(class_name, labels)), [np.flatnonzero(names == label).tolist() for label in labels]
    chosen = list(range(len(catalogue)))
    if task.labels == "rhythm":
        chosen = np.flatnonzero(catalogue["rhythm"] == 1).tolist()
    elif task.labels == "scp":
        chosen = most_frequent(data, np.flatnonzero(diagnostic), task)
    return tuple(class_name(data.statement_codes[k]) for k in chosen), [[k] for k in chosen]


def class_name(name: str) -> str:
    """Return a label's name as a bundle can carry it, for alerts' topics too: a dash for what is not in [A-Za-z0-9._-].

    LAO/LAE becomes LAO-LAE and PRC(S) PRC-S; most names stay as they are.
    """
    return re.sub(r"[^A-Za-z0-9._-]+", "-", name).lstrip("._-").rstrip("-")


def most_frequent(data: PtbXl, candidates: NDArray[np.int64], task: TaskPreset) -> list[int]:
    """Return the statements made most often in the training folds, or in all where those are not there."""
    training = np.isin(data.folds, TRAINING_FOLDS)
    stated = data.likelihoods[training if training.any() else slice(None)] >= task.min_likelihood
    counts = stated[:, candidates].sum(0)
    if (counts > 0).sum() < task.top:
        raise RecordError(f"these records have {int((counts > 0).sum())} diagnostic statements at a likelihood of "
                          f"{task.min_likelihood:g} % or more, and the task asks for {task.top}")  # fmt: skip
    order = np.argsort(-counts, kind="stable")[: task.top]
    return [int(k) for k in candidates[order]]


def with_table(data: PtbXl, path: Path) -> PtbXl:
    """Return the records with a user's labels; raises LabelTableError when none of them is in the table."""
    ecg_ids, classes, values = read_table_labels(path)
    row_of = {int(ecg_id): row for row, ecg_id in enumerate(ecg_ids)}
    rows = np.array([row_of.get(int(ecg_id), -1) for ecg_id in data.ecg_ids])
    labelled = rows >= 0
    if not labelled.any():
        raise LabelTableError(path, f"none of its {len(ecg_ids)} records is in this copy of PTB-XL")
    labels = np.where(labelled[:, None], values[rows], np.float32(0))
    return replace(data, labels=labels, labelled=labelled, classes=classes)


def read_table_labels(path: Path) -> tuple[NDArray[np.int64], tuple[str, ...], Float32Array]:
    """Read a user's table: record ids, the classes, labels (records, classes).

    Raises LabelTableError that names the line for what is not a record id or not 0 or 1.
    """
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            lines = csv.reader(file)
            header = [name.strip() for name in next(lines, [])]
            classes = _checked_classes(path, header)
            read = [_checked_line(path, lines.line_num, header, line) for line in lines if line]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise LabelTableError(path, f"cannot be read: {error}") from None
    ecg_ids = np.array([ecg_id for ecg_id, _ in read], np.int64)
    if len(read) == 0 or len(set(ecg_ids.tolist())) < len(read):
        raise LabelTableError(path, "a record stands in it twice" if read else "it has no records")
    return ecg_ids, classes, np.array([labels for _, labels in read], np.float32)


def _checked_classes(path: Path, header: list[str]) -> tuple[str, ...]:
    classes = tuple(map(class_name, header[1:]))
    if header[:1] != [ID_COLUMN] or not classes:
        raise LabelTableError(path, f"its first line must be {ID_COLUMN} and the classes, such as {ID_COLUMN},ACS")
    if len(set(classes)) < len(classes) or not all(classes):
        raise LabelTableError(path, "two classes have the same name, or one has none")
    if max(map(len, classes)) > LONGEST_NAME:
        raise LabelTableError(path, f"a class may have a name of {LONGEST_NAME} letters at most")
    return classes


def _checked_line(path: Path, number: int, header: list[str], line: Iterable[str]) -> tuple[int, list[float]]:
    cells = [cell.strip() for cell in line]
    if len(cells) != len(header):
        raise LabelTableError(path, f"line {number} has {len(cells)} cells, the first line {len(header)}")
    if not ID.fullmatch(cells[0]):
        raise LabelTableError(path, f"line {number}: {cells[0]!r} is no {ID_COLUMN}")
    for name, cell in zip(header[1:], cells[1:], strict=True):
        if cell not in ("0", "1"):
            raise LabelTableError(path, f"line {number}: {name} is {cell!r}, neither 0 nor 1")
    return int(cells[0]), [float(cell) for cell in cells[1:]]
