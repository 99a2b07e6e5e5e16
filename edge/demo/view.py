"""The demo's picture in the terminal: a pure function from what is known to what is drawn."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from rich.box import ROUNDED, SIMPLE_HEAD
from rich.console import Group, RenderableType
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from edge import RESEARCH_USE_ONLY
from edge.demo.watcher import Picture, StreamPicture

BAR_CELLS = 4
CLASS_CELLS = BAR_CELLS + 6
NARROW_CLASS_CELLS = 6  # a figure without a bar
FIXED_CELLS = 39  # device, state, quality and all that frames them
MIN_STRIP_CELLS, MAX_STRIP_CELLS = 10, 48
STRIP_ROWS = 2
STRIP_RANGE_MV = (-0.7, 1.5)
BRAILLE_BLANK = 0x2800
BRAILLE_DOTS = ((0x01, 0x02, 0x04, 0x40), (0x08, 0x10, 0x20, 0x80))  # by column, then row
LOG_LINES = 8
FRAME_LINES = 9  # border, head, source, the table's own, the heading of the alerts
EIGHTHS = " ▏▎▍▌▋▊▉█"
PRIORITY_STYLES = {"high": "bold red", "medium": "yellow", "low": "cyan"}
STATE_STYLES = {"raised": "bold", "updated": "dim", "cleared": "green"}
STATE_CELLS = 8
CLASS_STYLES = {"NORM": "green", "MI": "red", "STTC": "yellow", "CD": "magenta", "HYP": "cyan"}


def render(
    picture: Picture, source: str, elapsed_s: float, seconds: float, width: int = 100, height: int = 30
) -> RenderableType:
    """Draw everything. source: what is played, in words; it says when it is simulated.

    A terminal cuts off what is below its height, so the source and the notice stand at the top.
    """
    head = Text.assemble(
        ("ecg-edge ", "bold"), (picture.model or "starting", "bold cyan"), f" on {picture.runtime or '…'}   ",
        f"{elapsed_s:.0f}/{seconds:.0f} s   ",
        f"latency {_ms(picture.latency_ms['p50'])} median, {_ms(picture.latency_ms['p99'])} at 99 %",
        no_wrap=True, overflow="ellipsis",
    )  # fmt: skip
    notice = Text.assemble((RESEARCH_USE_ONLY, "bold red"), "   ", (source, "italic"))
    log_lines = max(1, min(LOG_LINES, height - FRAME_LINES - STRIP_ROWS * len(picture.streams)))
    return Panel(
        Group(head, notice, _streams(picture, width), Text("alerts", style="bold"), _log(picture.log, log_lines)),
        box=ROUNDED, border_style="blue", padding=(0, 1),
    )  # fmt: skip


def strip(samples_mv: Sequence[float], cells: int) -> str:
    """Draw a stretch of ECG in STRIP_ROWS lines of braille: two columns of dots a cell, four rows of dots a line."""
    rows, columns = STRIP_ROWS * 4, cells * 2
    dots = [[0] * cells for _ in range(STRIP_ROWS)]
    for column in range(columns if samples_mv else 0):
        first, last = column * len(samples_mv) // columns, (column + 1) * len(samples_mv) // columns
        part = samples_mv[max(0, first - 1) : last + 1] or (0.0,)  # overlaps its neighbours, so that the line is closed
        for row in range(_row_of(max(part), rows), _row_of(min(part), rows) + 1):
            dots[row // 4][column // 2] |= BRAILLE_DOTS[column % 2][row % 4]
    return "\n".join("".join(chr(BRAILLE_BLANK + dot) for dot in line) for line in dots)


def _row_of(value_mv: float, rows: int) -> int:
    low_mv, high_mv = STRIP_RANGE_MV
    share = (min(max(value_mv, low_mv), high_mv) - low_mv) / (high_mv - low_mv)
    return rows - 1 - min(int(share * rows), rows - 1)


def bar(probability: float, cells: int = BAR_CELLS) -> str:
    """Draw a probability as a bar in eighths of a cell."""
    eighths = round(min(max(probability, 0.0), 1.0) * cells * 8)
    full, rest = divmod(eighths, 8)
    return ("█" * full + (EIGHTHS[rest] if rest else "")).ljust(cells)


def _streams(picture: Picture, width: int) -> Table:
    table = Table(box=SIMPLE_HEAD, padding=(0, 1, 0, 0))
    known = (list(stream.probabilities) for stream in picture.streams if stream.probabilities)
    classes = next(known, list(CLASS_STYLES))
    wide = width >= FIXED_CELLS + MIN_STRIP_CELLS + CLASS_CELLS * len(classes)
    class_cells = CLASS_CELLS if wide else NARROW_CLASS_CELLS
    cells = min(MAX_STRIP_CELLS, width - FIXED_CELLS - class_cells * len(classes))
    strips = [("lead II", cells)] if cells >= MIN_STRIP_CELLS else []
    for heading, cells_wide in (("device", 8), *strips, ("state", STATE_CELLS), ("qual.", 5)):
        table.add_column(heading, no_wrap=True, min_width=cells_wide)
    for name in classes:
        table.add_column(Text(name, style=CLASS_STYLES.get(name, "")), no_wrap=True, min_width=class_cells - 1)
    for stream in picture.streams:
        traces = [Text(strip(stream.strip_mv, cells), style="bright_green") for _ in strips]
        state = _state(stream)
        quality = "" if stream.quality is None else f"{stream.quality:.2f}"
        figures = [_probability(stream, name, wide) for name in classes]
        table.add_row(stream.device, *traces, state, quality, *figures)
    return table


def _state(stream: StreamPicture) -> Text:
    """Draw a stream's state and below it the first technical condition that is open, shortened to the column."""
    style = "green" if stream.state == "ready" else "yellow"
    classes = {name.lower() for name in stream.probabilities}
    technical = [code for code in stream.open_alerts if code not in classes]
    code = technical[0] if technical else ""
    shown = code if len(code) <= STATE_CELLS else f"{code[: STATE_CELLS - 1]}…"
    return Text.assemble((stream.state, style), "\n", (shown, "bold yellow"))


def _probability(stream: StreamPicture, name: str, wide: bool) -> Text:
    """Draw a class's probability; a class whose alert is open stands out."""
    if name not in stream.probabilities:
        return Text("")
    style = CLASS_STYLES.get(name, "")
    is_open = name.lower() in stream.open_alerts
    figure, mark = f"{stream.probabilities[name]:.2f}", "●"
    if wide:
        figure, mark = f"{bar(stream.probabilities[name])} {figure}", f"{mark} alert"
    return Text.assemble(
        (figure, f"bold {style}" if is_open else style), "\n", (mark if is_open else "", f"bold {style}")
    )


def _log(log: tuple[dict[str, Any], ...], count: int) -> RenderableType:
    lines = [_line(alert) for alert in log if alert["state"] != "updated"][-count:]
    blank = [Text("  none yet", style="dim")] if not lines else []
    padding = [Text() for _ in range(count - len(lines) - len(blank))]
    return Group(*lines, *blank, *padding)


def _line(alert: dict[str, Any]) -> Text:
    probability = "" if alert["probability"] is None else f"p {alert['probability']:.2f}"
    reason = alert["reason"] or ""
    return Text.assemble(
        f"  {alert['device']:<10} ",
        (f"{alert['state']:<8} ", STATE_STYLES.get(alert["state"], "")),
        (f"{alert['code']:<14} {alert['priority']:<7}", PRIORITY_STYLES.get(alert["priority"], "")),
        f" {probability:<7} sample {alert['at']['i']:>7}  {reason:<14} {alert['id'][:8]}",
        no_wrap=True, overflow="ellipsis",
    )  # fmt: skip


def _ms(value: float | None) -> str:
    return "…" if value is None else f"{value:.0f} ms"
