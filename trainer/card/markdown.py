"""Markdown of tables, images, settings and notes."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from trainer.report import Sheet, cell_text


def markdown(sheet: Sheet) -> str:
    """Write a sheet as a table under its title, with its notes and where it comes from below."""
    lines = [
        f"### {sheet.title}",
        "",
        table_line(sheet.columns),
        table_line([":--", *["--:"] * (len(sheet.columns) - 1)]),
        *(table_line([cell_text(value) for value in row]) for row in sheet.rows),
    ]
    origin = " ".join(part for part in [f"`{sheet.command}`" if sheet.command else "", sheet.date] if part)
    below = [part for part in (sheet.notes.strip(), origin) if part]
    return "\n".join([*lines, *(f"\n{part}" for part in below)])


def table_line(cells: Iterable[str]) -> str:
    """Write one line of a table."""
    return "| " + " | ".join(cell.replace("|", "\\|").replace("\n", " ") for cell in cells) + " |"


def image(path: Path, card_folder: Path) -> str:
    """Show a picture that lies beside the card or in a folder there."""
    return f"![{path.stem.replace('_', ' ')}]({path.relative_to(card_folder).as_posix()})"


def settings_text(settings: dict[str, Any]) -> str:
    """Write settings in one line, one after another."""
    return ", ".join(f"{name} {plain_text(value)}" for name, value in settings.items())


def plain_text(value: Any) -> str:
    """Write a value that JSON can hold for people to read."""
    if isinstance(value, dict):
        return settings_text(value)
    if isinstance(value, list):
        return ", ".join(map(plain_text, value))
    return f"{value:.6g}" if isinstance(value, float) else str(value)


def sentences(notes: Sequence[str]) -> str:
    """Write notes as sentences."""
    return " ".join(f"{note[0].upper()}{note[1:]}." for note in notes if note)
