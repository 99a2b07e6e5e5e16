"""An explained ECG on paper: a glow behind the trace where the score comes from, and a bar for every lead."""

from __future__ import annotations

import io
import math
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from numpy.typing import NDArray
from PIL import Image
from scipy.ndimage import gaussian_filter1d

from edge import RESEARCH_USE_ONLY
from edge.errors import RecordError
from trainer.explain.attribution import Attribution
from trainer.explain.paper import (
    MM_PER_MV,
    MM_PER_S,
    PAPER,
    Box,
    Cell,
    draw_grid,
    draw_pulse,
    draw_trace,
    new_sheet,
    print_layout,
    write,
)

FloatArray = NDArray[np.float64]

FOR, AGAINST, QUIET, FAINT = "#6d28d9", "#00857a", "#5b5b66", "#a3a3ad"
"""Speaks for the class, against it; words; lesser words."""

DPI = 150
PNG = ".png"
FORMATS = (PNG, ".svg", ".pdf")
COLOURS, KMEANS = 256, 3
TOP_MM, BOTTOM_MM, LEFT_MM, RIGHT_MM = 25.0, 9.0, 14.0, 33.0
"""Margins around the traces: title, scale, calibration marks, bars. Ten seconds make a sheet of A4 across."""
ROW_MM = 44.0
LEAST_S = 10.0
"""How long the paper is at least: shorter ECG leaves some of it blank."""
GLOW_MM = 5.0
"""How far the glow reaches from the trace."""
GLOW_PIXELS_PER_MM = 4
GLOW_ALPHA = 0.8
GLOW_POWER = 0.75
"""Lifts what is faint: an eye judges differences in colour by their ratio."""
SMOOTH_S = 0.04
FULL_PERCENTILE = 99.0
"""Of the sizes of all samples that count at all: from here on the glow is at its strongest."""
SEEN_SHARE = 0.04
"""What is fainter is not drawn, or the paper would be grey."""


@dataclass(frozen=True)
class Caption:
    """The words around the picture."""

    title: str
    score: str
    method: str
    scale: str
    """Ends the line of paper speed and gain: the band of the filter."""
    source: str
    first_s: float
    """When the window begins, in seconds of the recording."""


def draw_explanation(
    samples_mv: FloatArray, leads: list[str], rate_hz: int, attribution: Attribution, caption: Caption
) -> Figure:
    """Draw one window, (samples, leads) in mV, with what one method says of it."""
    seconds = len(samples_mv) / rate_hz
    room = max(seconds, LEAST_S) * MM_PER_S
    width, height = LEFT_MM + room + RIGHT_MM, TOP_MM + 4 * ROW_MM + BOTTOM_MM
    figure, axes = new_sheet(width, height, DPI)
    paper = Box(LEFT_MM - 10.0, BOTTOM_MM, room + 10.0, 4 * ROW_MM)
    axes.add_patch(Rectangle((paper.left, paper.bottom), paper.width, paper.height, color=PAPER, zorder=0, linewidth=0))
    draw_grid(axes, paper)
    strength = _strength(attribution, rate_hz)
    for cell in print_layout(leads, seconds, LEFT_MM, height - TOP_MM, ROW_MM):
        _draw_cell(axes, cell, samples_mv, leads.index(cell.lead), rate_hz, strength)
    _draw_seconds(axes, paper, caption.first_s, seconds)
    side = Box(paper.right + 3.0, paper.bottom, RIGHT_MM - 6.0, paper.height)
    _draw_bars(axes, side, leads, attribution)
    _draw_key(axes, side, attribution)
    _draw_caption(axes, paper, height, caption)
    return figure


def save_explanation(figure: Figure, path: Path) -> Path:
    """Write a picture at its own size, as what the name ends in: PNG, SVG or PDF.

    A PNG has a palette: a quarter of the bytes, and no eye tells the difference. Raises RecordError when the file
    cannot be written.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.suffix.lower() != PNG:
            figure.savefig(path, dpi=DPI)
            return path
        drawn = io.BytesIO()
        figure.savefig(drawn, dpi=DPI, format="png")
        picture = Image.open(drawn).convert("RGB").quantize(COLOURS, kmeans=KMEANS)
        picture.save(path, format="png", dpi=(DPI, DPI), optimize=True)
    except OSError as error:
        raise RecordError(f"{path} cannot be written: {error.strerror or error}") from None
    return path


def _strength(attribution: Attribution, rate_hz: int) -> FloatArray:
    """Return (samples, leads) from -1 to 1: what the glow shows."""
    smooth = gaussian_filter1d(attribution.samples, SMOOTH_S * rate_hz, axis=0)
    sizes = np.abs(smooth[smooth != 0])
    full = np.percentile(sizes, FULL_PERCENTILE) if len(sizes) else 1.0
    return np.clip(smooth / full, -1.0, 1.0)


def _draw_cell(axes: Axes, cell: Cell, samples_mv: FloatArray, lead: int, rate_hz: int, strength: FloatArray) -> None:
    """Draw one stretch of one lead, its middle value on the zero line as a recorder would have it."""
    first, last = round(cell.first_s * rate_hz), round(cell.last_s * rate_hz)
    shown = samples_mv[first:last, lead] - np.median(samples_mv[:, lead])
    points = draw_trace(axes, shown, rate_hz, cell.box.left, cell.box.middle)
    _draw_glow(axes, cell.box, points, strength[first:last, lead])
    write(axes, cell.box.left + 1.2, cell.box.middle + 12.5, cell.lead, 3.4, weight="bold")
    if cell.starts_row:
        draw_pulse(axes, cell.box.left - 2.0, cell.box.middle)
    else:
        axes.plot(
            [cell.box.left] * 2, [cell.box.middle - 2.5, cell.box.middle + 2.5], color=QUIET, linewidth=0.6,
            zorder=2.5, scalex=False, scaley=False,
        )  # fmt: skip


def _draw_glow(axes: Axes, box: Box, points: FloatArray, strength: FloatArray) -> None:
    """Colour the paper around a trace by the strength of each sample, fading with the distance from it."""
    bottom, top = points[:, 1].min() - 2 * GLOW_MM, points[:, 1].max() + 2 * GLOW_MM
    columns, rows = round(box.width * GLOW_PIXELS_PER_MM), round((top - bottom) * GLOW_PIXELS_PER_MM)
    x = box.left + (np.arange(columns) + 0.5) / columns * box.width
    y = bottom + (np.arange(rows) + 0.5)[:, None] / rows * (top - bottom)
    low, high = _reach(points, x)
    distance = np.maximum(np.maximum(low - y, y - high), 0.0)  # (rows, columns) mm
    of_column = np.interp(x, points[:, 0], strength)
    size = np.abs(of_column) * (np.abs(of_column) > SEEN_SHARE)
    colours = np.where(of_column[:, None] < 0, to_rgb(AGAINST), to_rgb(FOR))  # (columns, 3)
    image = np.empty((rows, columns, 4))
    image[..., :3] = colours
    image[..., 3] = GLOW_ALPHA * size**GLOW_POWER * np.exp(-0.5 * (distance / (GLOW_MM / 2)) ** 2)
    axes.imshow(
        image, extent=(box.left, box.right, bottom, top), origin="lower", aspect="auto",
        interpolation="bilinear", zorder=1,
    )  # fmt: skip


def _reach(points: FloatArray, x: FloatArray) -> tuple[FloatArray, FloatArray]:
    """Return the lowest and highest point of a trace within half a column's width of each x."""
    half = 0.5 / GLOW_PIXELS_PER_MM
    edges = np.interp(np.stack([x - half, x, x + half]), points[:, 0], points[:, 1])
    return edges.min(0), edges.max(0)


def _draw_seconds(axes: Axes, paper: Box, first_s: float, seconds: float) -> None:
    """Number the seconds of the recording along the rhythm strip."""
    for second in range(math.ceil(first_s), math.floor(first_s + seconds) + 1):
        x = LEFT_MM + (second - first_s) * MM_PER_S
        write(axes, x, paper.bottom + 1.6, f"{second} s", 2.3, QUIET, across="center")


def _draw_bars(axes: Axes, side: Box, leads: list[str], attribution: Attribution) -> None:
    """Draw one bar per lead: to the right speaks for the class, to the left against it."""
    values = attribution.leads
    below = bool((values < 0).any())
    bars = Box(side.left + 7.5, side.bottom + ROW_MM, side.width - 17.5, side.height - ROW_MM)
    unit = bars.width / (values.max(initial=0.0) - values.min(initial=0.0) or 1.0)
    zero = bars.left - unit * values.min(initial=0.0) if below else bars.left
    pitch = bars.height / len(leads)
    for row, (lead, value) in enumerate(zip(leads, values.tolist(), strict=True)):
        y = bars.top - (row + 0.5) * pitch
        colour = AGAINST if value < 0 else FOR
        write(axes, side.left, y - 1.2, lead, 3.0, weight="bold")
        axes.add_patch(Rectangle((zero, y - 1.8), value * unit, 3.6, facecolor=colour, linewidth=0))
        write(axes, side.right, y - 1.0, number_text(value, attribution.signed), 2.5, QUIET, across="right")
    axes.plot([zero] * 2, [bars.bottom, bars.top], color=FAINT, linewidth=0.5, scalex=False, scaley=False)


def number_text(value: float, signed: bool) -> str:
    """Return a lead's value as the picture and the command print it."""
    return f"{value:+.2f}".replace("-", "−") if signed else f"{value:.0f}"


def _draw_key(axes: Axes, side: Box, attribution: Attribution) -> None:
    """Say what the colours mean."""
    bar = Box(side.left, side.bottom + 14.0, side.width, 3.2)
    values = np.linspace(-1.0 if attribution.signed else 0.0, 1.0, 64)
    colours = np.where(values[:, None] < 0, to_rgb(AGAINST), to_rgb(FOR))
    image = np.concatenate([colours, GLOW_ALPHA * np.abs(values)[:, None] ** GLOW_POWER], axis=1)[None]
    axes.imshow(
        image, extent=(bar.left, bar.right, bar.bottom, bar.top), aspect="auto", interpolation="bilinear", zorder=1
    )
    write(axes, bar.left, bar.top + 2.0, f"{attribution.unit.replace('logit', 'logits')}", 2.5, QUIET)
    write(axes, bar.left, bar.bottom - 4.0, "against" if attribution.signed else "little", 2.5, QUIET)
    write(axes, bar.right, bar.bottom - 4.0, "for" if attribution.signed else "much", 2.5, QUIET, across="right")


def _draw_caption(axes: Axes, paper: Box, height: float, caption: Caption) -> None:
    write(axes, paper.left, height - 9.0, caption.title, 5.0, weight="bold")
    write(axes, paper.left, height - 15.5, caption.score, 3.4)
    write(axes, paper.left, height - 20.8, caption.method, 3.0, QUIET)
    scale = f"{MM_PER_S:g} mm/s   {MM_PER_MV:g} mm/mV   {caption.scale}"
    write(axes, paper.left, 4.2, scale, 2.8, QUIET)
    write(axes, paper.right, 4.2, f"{caption.source}   {RESEARCH_USE_ONLY}", 2.8, QUIET, across="right")
