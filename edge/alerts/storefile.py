"""The alert store's SQLite file: its tables, how it is opened, and what happens to a damaged one."""

from __future__ import annotations

import sqlite3
import time
from pathlib import Path

import structlog

from edge.errors import StorageError

SCHEMA_VERSION = 1
BUSY_TIMEOUT_S = 5.0
SIDE_FILES = ("-wal", "-shm")
NEEDED_SQLITE = (3, 37)
"""The first with STRICT tables, which take no value of another type."""

_TABLES = """
BEGIN;
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
PRAGMA user_version = 1;
COMMIT;
"""

_log = structlog.get_logger()


def sqlite_problem(version: tuple[int, ...] = sqlite3.sqlite_version_info) -> str | None:
    """Return why alerts and snapshots cannot be stored with the SQLite that Python has here, None when they can."""
    if version >= NEEDED_SQLITE:
        return None
    found, needed = (".".join(map(str, numbers)) for numbers in (version, NEEDED_SQLITE))
    return f"Python has SQLite {found} here, {needed} or newer is needed; use a Python that brings its own"


def open_store_file(path: Path) -> sqlite3.Connection:
    """Open or create the file; a damaged one is moved aside, with a log line, and a new one begun.

    The connection may be used from any thread, by one at a time. Raises StorageError when the file can't be opened or
    is of a newer version.
    """
    problem = sqlite_problem()
    if problem is not None:
        raise StorageError(problem)
    try:
        try:
            return _open(path)
        except sqlite3.OperationalError:
            raise
        except sqlite3.DatabaseError as error:
            moved = _move_aside(path)
            _log.error("alert_store_damaged", moved_to=str(moved), problem=str(error))
            return _open(path)
    except (sqlite3.Error, OSError) as error:
        problem = f"alert store {path}: {error}; its folder must exist, be writable and have space"
        raise StorageError(problem) from None


def _open(path: Path) -> sqlite3.Connection:
    """Open the file and make sure that it is whole; raises sqlite3.DatabaseError when it is damaged."""
    database = sqlite3.connect(path, timeout=BUSY_TIMEOUT_S, check_same_thread=False, isolation_level=None)
    try:
        database.execute("PRAGMA journal_mode = WAL")
        database.execute("PRAGMA synchronous = FULL")
        faults = [row[0] for row in database.execute("PRAGMA quick_check(1)")]
        if faults != ["ok"]:
            raise sqlite3.DatabaseError(faults[0])
        _check_schema(database, path)
    except BaseException:
        database.close()
        raise
    return database


def _check_schema(database: sqlite3.Connection, path: Path) -> None:
    version = database.execute("PRAGMA user_version").fetchone()[0]
    if version > SCHEMA_VERSION:
        raise StorageError(
            f"alert store {path} has schema {version}, this version knows {SCHEMA_VERSION}: use the newer ecg-edge, or "
            "move the file away (its undelivered alerts are then not sent)"
        )
    if version == 0:
        database.executescript(_TABLES)


def _move_aside(path: Path) -> Path:
    """Rename the file and what SQLite keeps beside it; nothing is deleted."""
    moved = path.with_name(f"{path.name}.damaged-{time.time_ns()}")
    for side in ("", *SIDE_FILES):
        part = path.with_name(path.name + side)
        if part.exists():
            part.rename(moved.with_name(moved.name + side))
    return moved
