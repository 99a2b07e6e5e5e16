"""The demo's picture in the terminal: a pure function from what is known to what is drawn."""

from __future__ import annotations

from typing import Any

from rich.box import ROUNDED, SIMPLE_HEAD
from rich.console import Group, RenderableType
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from edge import RESEARCH_USE_ONLY
from edge.demo.watcher import Picture, StreamPicture

BAR_CELLS = 8
STRIP_CELLS = 34
LOG_LINES = 8
STRIP_RANGE_MV = (-0.8, 1.6)
LEVELS = "▁▂▃▄▅▆▇█"
EIGHTHS = " ▏▎▍▌▋▊▉█"
PRIORITY_STYLES = {"high": "bold red", "medium": "yellow", "low": "cyan"}
STATE_STYLES = {"raised": "bold", "updated": "dim", "cleared": "green"}
CLASS_STYLES = {"NORM": "green", "MI": "red", "STTC": "yellow", "CD": "magenta", "HYP": "cyan"}


def render(picture: Picture, source: str, elapsed_s: float, seconds: float) -> RenderableType:
    """Draw everything. source: what is played, in words; it says when it is simulated."""
    head = Text.assemble(
        ("ecg-edge ", "bold"), (picture.model or "starting", "bold cyan"), f" on {picture.runtime or '…'}   ",
        f"latency {_ms(picture.latency_ms['p50'])} median, {_ms(picture.latency_ms['p99'])} at 99 %   ",
        f"{elapsed_s:.0f}/{seconds:.0f} s",
    )  # fmt: skip
    foot = Text.assemble((source, "italic"), "   ", (RESEARCH_USE_ONLY, "bold red"))
    return Panel(
        Group(head, _streams(picture), Text("alerts", style="bold"), _log(picture.log), Text(), foot),
        box=ROUNDED, border_style="blue", padding=(0, 1),
    )  # fmt: skip


def strip(samples_mv: tuple[float, ...], cells: int = STRIP_CELLS) -> str:
    """Draw a stretch of ECG in one line of block characters: each cell shows its farthest excursion."""
    if not samples_mv:
        return " " * cells
    low_mv, high_mv = STRIP_RANGE_MV
    drawn = []
    for cell in range(cells):
        part = samples_mv[cell * len(samples_mv) // cells : (cell + 1) * len(samples_mv) // cells] or (0.0,)
        farthest_mv = max(part, key=abs)
        share = (min(max(farthest_mv, low_mv), high_mv) - low_mv) / (high_mv - low_mv)
        drawn.append(LEVELS[min(int(share * len(LEVELS)), len(LEVELS) - 1)])
    return "".join(drawn)


def bar(probability: float, cells: int = BAR_CELLS) -> str:
    """Draw a probability as a bar in eighths of a cell."""
    eighths = round(min(max(probability, 0.0), 1.0) * cells * 8)
    full, rest = divmod(eighths, 8)
    return ("█" * full + (EIGHTHS[rest] if rest else "")).ljust(cells)


def _streams(picture: Picture) -> Table:
    table = Table(box=SIMPLE_HEAD, expand=True, padding=(0, 1))
    classes = next(
        (list(stream.probabilities) for stream in picture.streams if stream.probabilities), list(CLASS_STYLES)
    )
    for heading in ("device", f"lead II, {len(LEVELS)} levels"):
        table.add_column("lead II" if heading != "device" else heading, no_wrap=True)
    table.add_column("state", no_wrap=True)
    table.add_column("quality", justify="right", no_wrap=True)
    for name in classes:
        table.add_column(Text(name, style=CLASS_STYLES.get(name, "")), no_wrap=True)
    table.add_column("open", no_wrap=True)
    for stream in picture.streams:
        table.add_row(*_row(stream, classes))
    return table


def _row(stream: StreamPicture, classes: list[str]) -> list[RenderableType]:
    quality = "" if stream.quality is None else f"{stream.quality:.2f}"
    bars = [
        Text(f"{bar(stream.probabilities[name])} {stream.probabilities[name]:.2f}", style=CLASS_STYLES.get(name, ""))
        if name in stream.probabilities
        else Text("")
        for name in classes
    ]
    state = Text(stream.state, style="green" if stream.state == "ready" else "yellow")
    opened = Text(", ".join(stream.open_alerts), style="bold red")
    return [stream.device, Text(strip(stream.strip_mv), style="bright_green"), state, quality, *bars, opened]


def _log(log: tuple[dict[str, Any], ...]) -> RenderableType:
    lines = [_line(alert) for alert in log if alert["state"] != "updated"][-LOG_LINES:]
    blank = [Text("  none yet", style="dim")] if not lines else []
    padding = [Text() for _ in range(LOG_LINES - len(lines) - len(blank))]
    return Group(*lines, *blank, *padding)


def _line(alert: dict[str, Any]) -> Text:
    probability = "" if alert["probability"] is None else f"p {alert['probability']:.2f}"
    reason = alert["reason"] or ""
    return Text.assemble(
        f"  {alert['device']:<10} ",
        (f"{alert['state']:<8} ", STATE_STYLES.get(alert["state"], "")),
        (f"{alert['code']:<14} {alert['priority']:<7}", PRIORITY_STYLES.get(alert["priority"], "")),
        f" {probability:<7} sample {alert['at']['i']:>7}  {reason:<14} {alert['id'][:8]}",
    )


def _ms(value: float | None) -> str:
    return "…" if value is None else f"{value:.0f} ms"
