"""The sample configuration and the reference table, made from the configuration's own fields."""

from __future__ import annotations

import json
import textwrap
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import get_origin

from pydantic.fields import FieldInfo

from edge import RESEARCH_USE_ONLY
from edge.daemon.config import Config
from edge.daemon.config_types import Section, section_in

COMMENT_WIDTH = 98
LIMIT_SIGNS = {"ge": "≥", "gt": ">", "le": "≤", "lt": "<"}


@dataclass(frozen=True)
class Table:
    """One TOML table: where it stands, what it is made of, whether it must be written to take effect."""

    path: str
    section: type[Section]
    optional: bool

    def plain_keys(self) -> Iterator[tuple[str, FieldInfo]]:
        """Give the plain keys of the table, without its inner tables."""
        fields = self.section.model_fields.items()
        return ((name, field) for name, field in fields if section_in(field.annotation) is None)


def tables(section: type[Section] = Config, path: str = "") -> Iterator[Table]:
    """Give all tables of the configuration, in their order in the file."""
    for name, field in section.model_fields.items():
        inner = section_in(field.annotation)
        if inner is None:
            continue
        is_mapping = get_origin(field.annotation) is dict
        inner_path = f"{path}{name}" + (f".{(field.examples or ['NAME'])[0]}" if is_mapping else "")
        yield Table(inner_path, inner, optional=is_mapping or field.annotation is not inner)
        yield from tables(inner, f"{inner_path}.")


def sample_toml() -> str:
    """Return a configuration file with every key explained and, commented out, at its default or an example."""
    head = _comment(
        "Configuration of ecg-edge. Every key may be left out; a line that starts with # and a key shows its default, "
        f"or an example where it has none. Check changes with: ecg-edge check-config FILE. {RESEARCH_USE_ONLY}"
    )
    return "\n\n".join([head, *(_sample_table(table) for table in tables())]) + "\n"


def reference_markdown() -> str:
    """Return the reference of all keys as Markdown, one table per section."""
    return "\n\n".join(_reference_table(table) for table in tables()) + "\n"


def settings(config: Section, path: str = "") -> Iterator[tuple[str, object]]:
    """Give every setting in force as (dotted key, value). No secret is among them: they live in files of their own."""
    for name, value in config:
        yield from _settings_of(f"{path}{name}", value)


def _settings_of(key: str, value: object) -> Iterator[tuple[str, object]]:
    if isinstance(value, Section):
        yield from settings(value, f"{key}.")
    elif isinstance(value, dict):
        for name, inner in value.items():
            yield from _settings_of(f"{key}.{name}", inner)
    else:
        yield key, value


def _sample_table(table: Table) -> str:
    lines = [_comment(_one_line(table.section.__doc__)), f"{'#' if table.optional else ''}[{table.path}]"]
    for name, field in table.plain_keys():
        lines += [_comment(_explained(field)), f"#{name} = {_toml_value(_shown_value(field))}"]
    return "\n".join(lines)


def _reference_table(table: Table) -> str:
    lines = [
        f"**`[{table.path}]`** {_one_line(table.section.__doc__)}",
        "",
        "| key | default | meaning |",
        "|---|---|---|",
    ]
    for name, field in table.plain_keys():
        default = f"`{_toml_value(field.default)}`" if _has_plain_default(field) else "–"
        lines.append(f"| `{name}` | {default} | {_explained(field).replace('|', chr(92) + '|')} |")
    return "\n".join(lines)


def _explained(field: FieldInfo) -> str:
    limits = _limits(field)
    return f"{field.title}: {field.description}" + (f" ({limits})" if limits else "")


def _limits(field: FieldInfo) -> str:
    """Say the range of a number, such as "≥ 1, ≤ 65535"."""
    return ", ".join(
        f"{sign} {getattr(limit, name):.15g}"
        for limit in field.metadata
        for name, sign in LIMIT_SIGNS.items()
        if hasattr(limit, name)
    )


def _has_plain_default(field: FieldInfo) -> bool:
    return field.default_factory is None and field.default is not None


def _shown_value(field: FieldInfo) -> object:
    return field.default if _has_plain_default(field) else (field.examples or [""])[0]


def _toml_value(value: object) -> str:
    """Write a value as TOML; JSON's strings, numbers and booleans are TOML's."""
    return json.dumps(str(value) if isinstance(value, Path) else value, ensure_ascii=False)


def _one_line(text: str | None) -> str:
    return " ".join((text or "").split())


def _comment(text: str) -> str:
    return "\n".join(f"# {line}" for line in textwrap.wrap(text, COMMENT_WIDTH))
