"""ECG paper: 25 mm a second, 10 mm a millivolt, lines every 1 and 5 mm, and the usual three rows of four leads.

Coordinates on a sheet are millimetres from its lower left corner, so a picture printed at its own size can be measured
with a ruler. Knows nothing of models.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection
from matplotlib.figure import Figure
from numpy.typing import NDArray

FloatArray = NDArray[np.float64]

MM_PER_S = 25.0
MM_PER_MV = 10.0
SMALL_MM, LARGE_MM = 1.0, 5.0
MM_PER_INCH = 25.4
POINTS_PER_MM = 72.0 / MM_PER_INCH

PAPER, SMALL_LINES, LARGE_LINES, INK = "#fffdfb", "#f9e4df", "#f0bfb4", "#16161d"
TRACE_MM, SMALL_LINE_MM, LARGE_LINE_MM = 0.33, 0.1, 0.16

COLUMNS = (("I", "II", "III"), ("aVR", "aVL", "aVF"), ("V1", "V2", "V3"), ("V4", "V5", "V6"))
ROWS = 3
RHYTHM_LEAD = "II"
PULSE_MM = 5.0
"""Width of the mark of one millivolt before each row."""


@dataclass(frozen=True)
class Box:
    """A rectangle on a sheet, in mm."""

    left: float
    bottom: float
    width: float
    height: float

    @property
    def right(self) -> float:
        """Its right edge."""
        return self.left + self.width

    @property
    def top(self) -> float:
        """Its upper edge."""
        return self.bottom + self.height

    @property
    def middle(self) -> float:
        """Where the zero line of a trace in it runs."""
        return self.bottom + self.height / 2


@dataclass(frozen=True)
class Cell:
    """A stretch of one lead and where it stands."""

    lead: str
    first_s: float
    last_s: float
    box: Box
    starts_row: bool


def new_sheet(width_mm: float, height_mm: float, dpi: float) -> tuple[Figure, Axes]:
    """Return a blank sheet whose data coordinates are millimetres."""
    figure = Figure(figsize=(width_mm / MM_PER_INCH, height_mm / MM_PER_INCH), dpi=dpi, facecolor="white")
    axes = figure.add_axes((0.0, 0.0, 1.0, 1.0))
    axes.set(xlim=(0.0, width_mm), ylim=(0.0, height_mm))
    axes.set_axis_off()
    return figure, axes


def print_layout(leads: Sequence[str], seconds: float, left: float, top: float, row_mm: float) -> list[Cell]:
    """Lay leads out as a 3×4 print over a rhythm strip: four columns of a quarter of the time, then lead II over all.

    A lead that is not among `leads` leaves its place empty.
    """
    quarter_s = seconds / len(COLUMNS)
    cells = []
    for column, names in enumerate(COLUMNS):
        for row, lead in enumerate(names):
            box = Box(left + column * quarter_s * MM_PER_S, top - (row + 1) * row_mm, quarter_s * MM_PER_S, row_mm)
            cells.append(Cell(lead, column * quarter_s, (column + 1) * quarter_s, box, column == 0))
    strip = Box(left, top - (ROWS + 1) * row_mm, seconds * MM_PER_S, row_mm)
    cells.append(Cell(RHYTHM_LEAD, 0.0, seconds, strip, True))
    return [cell for cell in cells if cell.lead in leads]


def draw_grid(axes: Axes, box: Box) -> None:
    """Rule a part of the sheet; lines count from the box's lower left corner."""
    for step_mm, colour, width_mm, order in (
        (SMALL_MM, SMALL_LINES, SMALL_LINE_MM, 0.1),
        (LARGE_MM, LARGE_LINES, LARGE_LINE_MM, 0.2),
    ):
        across = [((x, box.bottom), (x, box.top)) for x in _ticks(box.left, box.right, step_mm)]
        along = [((box.left, y), (box.right, y)) for y in _ticks(box.bottom, box.top, step_mm)]
        axes.add_collection(
            LineCollection(across + along, colors=colour, linewidths=width_mm * POINTS_PER_MM, zorder=order),
            autolim=False,
        )


def draw_trace(axes: Axes, samples_mv: FloatArray, rate_hz: float, left: float, zero: float) -> FloatArray:
    """Draw samples of one lead from `left` on around the height of `zero`; return the points (samples, 2) in mm."""
    points = trace_points(samples_mv, rate_hz, left, zero)
    axes.plot(
        points[:, 0], points[:, 1], color=INK, linewidth=TRACE_MM * POINTS_PER_MM, solid_joinstyle="round",
        solid_capstyle="round", zorder=3, scalex=False, scaley=False,
    )  # fmt: skip
    return points


def trace_points(samples_mv: FloatArray, rate_hz: float, left: float, zero: float) -> FloatArray:
    """Return where samples of one lead stand on the sheet, (samples, 2) in mm."""
    seconds = np.arange(len(samples_mv)) / rate_hz
    return np.column_stack([left + MM_PER_S * seconds, zero + MM_PER_MV * samples_mv])


def draw_pulse(axes: Axes, right: float, zero: float) -> None:
    """Draw the mark of one millivolt, ending at `right`."""
    foot = PULSE_MM / 5
    xs = np.array([0.0, foot, foot, PULSE_MM - foot, PULSE_MM - foot, PULSE_MM]) + right - PULSE_MM
    ys = np.array([0.0, 0.0, MM_PER_MV, MM_PER_MV, 0.0, 0.0]) + zero
    axes.plot(xs, ys, color=INK, linewidth=TRACE_MM * POINTS_PER_MM, zorder=3, scalex=False, scaley=False)


def write(
    axes: Axes, x: float, y: float, text: str, size_mm: float, colour: str = INK, across: str = "left",
    weight: str = "normal",
) -> None:  # fmt: skip
    """Write a line of text, so many millimetres high, standing on y."""
    axes.text(
        x, y, text, fontsize=size_mm * POINTS_PER_MM, color=colour, ha=across, va="baseline", fontweight=weight,
        zorder=4, parse_math=False,
    )  # fmt: skip


def _ticks(first: float, last: float, step: float) -> list[float]:
    return [first + step * k for k in range(int((last - first) / step + 1e-6) + 1)]
