"""Reading the configuration file, with every fault in it reported at once and in words that say what to do."""

from __future__ import annotations

import difflib
import os
import re
import sys
from pathlib import Path
from typing import Any

from pydantic import ValidationError
from pydantic_core import ErrorDetails

from edge.daemon.config import Config
from edge.daemon.config_types import Section, section_in
from edge.errors import ConfigError

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

PATH_VARIABLE = "ECG_EDGE_CONFIG"
SECRET_WORDS = ("password", "passwd", "secret", "token")


def configured_path(path: Path | None) -> Path | None:
    """Return the configuration file meant: the one given, else the one $ECG_EDGE_CONFIG names, else none."""
    named = os.environ.get(PATH_VARIABLE)
    return path if path is not None or not named else Path(named)


def load_config(path: Path | None = None) -> Config:
    """Read and check a configuration; without a path $ECG_EDGE_CONFIG is read, without that the defaults hold.

    Raises ConfigError, which lists every problem with the key it is about.
    """
    path = configured_path(path)
    if path is None:
        return parse_config("", "defaults", Path.cwd())
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise ConfigError(str(path), (f"cannot be read: {error.strerror}; give the path of a TOML file",)) from None
    except UnicodeDecodeError as error:
        raise ConfigError(str(path), (f"is not UTF-8 text (byte {error.start}); save it as UTF-8",)) from None
    return parse_config(text, str(path), path.resolve().parent)


def parse_config(text: str, source: str, folder: Path) -> Config:
    """Check a configuration's text; `source` names it in errors, relative paths in it are taken from `folder`."""
    try:
        return Config.model_validate(tomllib.loads(text), context={"folder": folder})
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(source, (f"is not valid TOML: {error}",)) from None
    except RecursionError:
        raise ConfigError(source, ("is nested too deeply",)) from None
    except ValidationError as error:
        raise ConfigError(source, tuple(_problem(detail) for detail in error.errors(include_url=False))) from None
    except ValueError as error:  # a number of thousands of digits, for one
        raise ConfigError(source, (f"cannot be read: {error}",)) from None


def _problem(detail: ErrorDetails) -> str:
    path, kind, given = detail["loc"], detail["type"], detail["input"]
    key = ".".join(str(part) for part in path)
    message = re.sub(r"^(Value error, |(Input|String) (?=should))", "", detail["msg"])
    if kind == "extra_forbidden":
        return f"{key}: unknown key; {_advice(path)}"
    if kind == "model_type":
        return f"{key}: should be a section, written as [{key}]"
    if isinstance(given, dict | Section):
        return f"{key}: {message}"
    return f"{key} = {_toml_like(given)}: {message}"


def _advice(path: tuple[int | str, ...]) -> str:
    """Say what a person who wrote an unknown key may have meant."""
    known, wrong = _keys_beside(path), str(path[-1])
    if wrong.lower() in SECRET_WORDS:
        return "no secret stands in this file; use password_file or password_credential"
    close = difflib.get_close_matches(wrong, known, n=1)
    return f"did you mean {close[0]}?" if close else f"the keys here are {', '.join(known)}"


def _keys_beside(path: tuple[int | str, ...]) -> list[str]:
    """Return the keys that are known where the last key of `path` stands."""
    section: type[Section] = Config
    for part in path[:-1]:
        field = section.model_fields.get(str(part))
        inner = section_in(field.annotation) if field is not None else None
        section = inner or section  # the name of a class under alerts.classes is no field: its table was entered before
    return list(section.model_fields)


def _toml_like(value: Any) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    text = f'"{value}"' if isinstance(value, str) else str(value)
    return text if len(text) <= 60 else text[:57] + "…"
