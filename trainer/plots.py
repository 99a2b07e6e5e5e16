"""Plots of an evaluation as PNG files: ROC, precision-recall, calibration, confusion."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import cycle
from pathlib import Path
from typing import Literal, TypeAlias

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import NullLocator
from numpy.typing import NDArray
from sklearn.metrics import precision_recall_curve, roc_curve

from trainer.metrics import BoolArray, ClassFigures, Confusion, Figures, FloatArray, reliability

COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
"""Okabe & Ito 2008: told apart whatever one's colour vision."""

DPI = 150
CALIBRATION_BINS = 10
MOST_NAMED = 14
"""Curves that a legend still tells apart, in two rounds of colours."""
CONFUSION_COLUMNS = 8


_Corner: TypeAlias = Literal["upper left", "lower left", "lower right"]


@dataclass(frozen=True)
class _Class:
    name: str
    colour: str
    positive: BoolArray  # (records,)
    probabilities: FloatArray  # (records,)
    figures: ClassFigures


@dataclass(frozen=True)
class _Plot:
    """One file of curves, a curve per class."""

    x_label: str
    y_label: str
    figure: str
    """What the number beside each class is."""
    corner: _Corner
    """Where the legend stands."""
    diagonal: bool
    """Whether to draw the line that a curve is to be compared with: chance for ROC, perfection for calibration."""
    draw: Callable[[Axes, _Class], None]


def write_plots(
    directory: Path, title: str, labels: NDArray[np.float32], probabilities: FloatArray, figures: Figures
) -> list[Path]:
    """Write the plots into a directory, made if it is not there, and return their paths.

    labels and probabilities are (records, classes) in the order of `figures`; classes without figures are left out.
    """
    directory.mkdir(parents=True, exist_ok=True)
    classes = [
        _Class(name, colour, labels[:, k] > 0.5, probabilities[:, k], row)
        for k, ((name, row), colour) in enumerate(zip(figures.per_class.items(), cycle(COLOURS), strict=False))
        if row.auc is not None
    ]
    paths = [_save(_curves(title, plot, classes), directory / f"{name}.png") for name, plot in _PLOTS.items()]
    return [*paths, _save(_confusion(title, classes), directory / "confusion.png")]


def log_x(axes: Axes, ticks: Sequence[float]) -> None:
    """Make the horizontal axis logarithmic, with these numbers on it and no others."""
    axes.set_xscale("log")
    axes.set_xticks(list(ticks), [f"{tick:g}" for tick in ticks])
    axes.xaxis.set_minor_locator(NullLocator())


def _curves(title: str, plot: _Plot, classes: Sequence[_Class]) -> Figure:
    figure = Figure(figsize=(6.0, 6.0), layout="constrained")
    axes = figure.add_subplot()
    if plot.diagonal:
        axes.plot([0, 1], [0, 1], color="0.6", linewidth=1, linestyle="--")
    for of_class in classes:
        plot.draw(axes, of_class)
    axes.set(xlabel=plot.x_label, ylabel=plot.y_label, title=title, xlim=(-0.01, 1.01), ylim=(-0.01, 1.01))
    axes.set_aspect("equal")
    axes.grid(color="0.92")
    axes.set_axisbelow(True)
    if 0 < len(classes) <= MOST_NAMED:
        axes.legend(loc=plot.corner, fontsize=9, title=plot.figure, title_fontsize=9)
    return figure


def _roc(axes: Axes, of_class: _Class) -> None:
    false_share, true_share, _ = roc_curve(of_class.positive, of_class.probabilities)
    axes.plot(false_share, true_share, color=of_class.colour, label=f"{of_class.name}  {of_class.figures.auc:.3f}")


def _precision_recall(axes: Axes, of_class: _Class) -> None:
    precision, recall, _ = precision_recall_curve(of_class.positive, of_class.probabilities)
    label = f"{of_class.name}  {of_class.figures.auprc:.3f}"
    axes.plot(recall, precision, color=of_class.colour, label=label, drawstyle="steps-post")
    at_threshold = of_class.figures.confusion
    axes.plot(at_threshold.recall, at_threshold.precision, "o", color=of_class.colour, markeredgecolor="white")


def _calibration(axes: Axes, of_class: _Class) -> None:
    binned = reliability(of_class.positive, of_class.probabilities, CALIBRATION_BINS)
    label = f"{of_class.name}  {of_class.figures.ece:.3f}"
    axes.plot(binned.predicted, binned.observed, color=of_class.colour, marker="o", markersize=5, label=label)


def _confusion(title: str, classes: Sequence[_Class]) -> Figure:
    columns = max(1, min(CONFUSION_COLUMNS, len(classes)))
    rows = max(1, -(-len(classes) // columns))
    figure = Figure(figsize=(2.6 * columns, 3.2 * rows), layout="constrained")
    figure.suptitle(f"{title}: records at the F1 thresholds")
    for k, of_class in enumerate(classes):
        axes = figure.add_subplot(rows, columns, k + 1)
        _confusion_matrix(axes, of_class.name, of_class.figures.confusion)
        if k % columns == 0:
            axes.set_ylabel("truth")
    return figure


def _confusion_matrix(axes: Axes, name: str, counts: Confusion) -> None:
    matrix = np.array(
        [[counts.true_negatives, counts.false_positives], [counts.false_negatives, counts.true_positives]]
    )
    shares = matrix / matrix.sum(axis=1, keepdims=True)
    axes.imshow(shares, cmap="Blues", vmin=0.0, vmax=1.0)
    for row, column in np.ndindex(2, 2):
        colour = "white" if shares[row, column] > 0.6 else "black"
        text = f"{matrix[row, column]:,}\n{shares[row, column]:.1%}"
        axes.text(column, row, text, ha="center", va="center", color=colour)
    axes.set(title=name, xlabel="called", xticks=[0, 1], yticks=[0, 1], xticklabels=["no", "yes"])
    axes.set_yticklabels(["no", "yes"])


def _save(figure: Figure, path: Path) -> Path:
    figure.savefig(path, dpi=DPI, format="png")
    return path


_PLOTS = {
    "roc": _Plot("false positive rate", "true positive rate", "ROC-AUC", "lower right", True, _roc),
    "precision_recall": _Plot(
        "recall (dots: at the F1 thresholds)", "precision", "average precision", "lower left", False, _precision_recall
    ),
    "calibration": _Plot("mean probability", "observed share", "calibration error", "upper left", True, _calibration),
}
