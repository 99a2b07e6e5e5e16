"""Progress on standard error, so that standard output stays a result."""

from __future__ import annotations

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn


def console() -> Console:
    """Return a console on standard error."""
    return Console(stderr=True)


def progress(shown: bool = True) -> Progress:
    """Return a progress display with a bar, a count and the time left; unless shown, one that stays silent."""
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        console=console(),
        disable=not shown,
    )
