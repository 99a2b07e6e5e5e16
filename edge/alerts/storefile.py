"""The alert store's SQLite file: its tables, and what becomes of a damaged one."""

from __future__ import annotations

import sqlite3
import time
from pathlib import Path

import structlog

from edge.database import Schema, open_database, parts_of

SCHEMA = Schema(
    name="alert store",
    version=1,
    synchronous="FULL",
    tables="""
CREATE TABLE condition (
    device TEXT NOT NULL, code TEXT NOT NULL, event BLOB NOT NULL, PRIMARY KEY (device, code)
) STRICT;
CREATE TABLE message (
    seq INTEGER PRIMARY KEY AUTOINCREMENT,
    topic TEXT NOT NULL,
    payload BLOB NOT NULL,
    qos INTEGER NOT NULL,
    retain INTEGER NOT NULL,
    created_ns INTEGER NOT NULL
) STRICT;
CREATE UNIQUE INDEX retained_message ON message (topic) WHERE retain = 1;
CREATE INDEX message_to_drop ON message (retain, seq);
""",
)

_log = structlog.get_logger()


def open_store_file(path: Path) -> sqlite3.Connection:
    """Open or create the file; a damaged one is moved aside, with a log line, and a new one begun.

    The connection may be used from any thread, by one at a time. Raises StorageError when the file can't be opened or
    is of a newer version.
    """
    return open_database(path, SCHEMA, _move_aside)


def _move_aside(path: Path, problem: str) -> None:
    """Rename the file and what SQLite keeps beside it; nothing is deleted."""
    moved = f"{path.name}.damaged-{time.time_ns()}"
    for part in parts_of(path):
        part.rename(path.with_name(part.name.replace(path.name, moved, 1)))
    _log.error("alert_store_damaged", moved_to=str(path.with_name(moved)), problem=problem)
