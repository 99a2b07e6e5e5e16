"""SQLite files that outlive what a disk does to them: a damaged one is put out of the way and begun anew."""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from edge.errors import DiskError, StorageError

BUSY_TIMEOUT_S = 5.0
SIDE_FILES = ("-wal", "-shm")
NEEDED_SQLITE = (3, 37)
"""The first with STRICT tables, which take no value of another type."""
ENVIRONMENT = ("locked", "unable to open", "is full", "disk i/o", "out of memory")
"""Of what SQLite complains when not the file is at fault; it is left alone then."""


@dataclass(frozen=True)
class Schema:
    """What a file is to hold, and how surely what is committed has reached the disk."""

    name: str
    """What the file is called in messages."""
    tables: str
    version: int
    synchronous: str


def sqlite_problem(version: tuple[int, ...] = sqlite3.sqlite_version_info) -> str | None:
    """Return why alerts and snapshots cannot be stored with the SQLite that Python has here, None when they can."""
    if version >= NEEDED_SQLITE:
        return None
    found, needed = (".".join(map(str, numbers)) for numbers in (version, NEEDED_SQLITE))
    return f"Python has SQLite {found} here, {needed} or newer is needed; use a Python that brings its own"


def open_database(path: Path, schema: Schema, put_away: Callable[[Path, str], object]) -> sqlite3.Connection:
    """Open or create a file; `put_away(path, problem)` takes a damaged one out of the way, and a new one is begun.

    The connection may be used from any thread, by one at a time. Raises DiskError when the disk is full, read-only or
    broken, StorageError when the file can't be opened otherwise or is of a newer version.
    """
    problem = sqlite_problem()
    if problem is not None:
        raise StorageError(problem)
    try:
        try:
            return _open(path, schema)
        except (sqlite3.Error, UnicodeError) as error:
            if not _is_damage(error, path):
                raise
            put_away(path, str(error))
            return _open(path, schema)
    except (sqlite3.Error, UnicodeError, OSError) as error:
        problem = f"{schema.name} {path}: {error}; its folder must exist, be writable and have space"
        raise (DiskError if _is_of_the_disk(error, path) else StorageError)(problem) from None


def parts_of(path: Path) -> list[Path]:
    """Return the file and what SQLite keeps beside it, as far as they are there."""
    parts = [path.with_name(path.name + side) for side in ("", *SIDE_FILES)]
    return [part for part in parts if part.exists()]


def _is_damage(error: Exception, path: Path) -> bool:
    """Tell whether the file is at fault: a flipped bit may call one read-only that may well be written."""
    problem = str(error).lower()
    if "readonly" in problem:
        return os.access(path, os.W_OK) and os.access(path.parent, os.W_OK)
    return not any(words in problem for words in ENVIRONMENT)


def _is_of_the_disk(error: Exception, path: Path) -> bool:
    problem = str(error).lower()
    if "is full" in problem or "disk i/o" in problem:
        return True
    try:
        return bool(os.statvfs(path.parent).f_flag & os.ST_RDONLY)
    except OSError:
        return False


def _open(path: Path, schema: Schema) -> sqlite3.Connection:
    """Open the file and make sure that it is whole; raises sqlite3.Error or UnicodeError when it is not."""
    database = sqlite3.connect(path, timeout=BUSY_TIMEOUT_S, check_same_thread=False, isolation_level=None)
    try:
        database.execute("PRAGMA journal_mode = WAL")
        database.execute(f"PRAGMA synchronous = {schema.synchronous}")
        faults = [row[0] for row in database.execute("PRAGMA integrity_check(1)")]
        if faults != ["ok"]:
            raise sqlite3.DatabaseError(faults[0])
        _check_schema(database, path, schema)
    except BaseException:
        database.close()
        raise
    return database


def _check_schema(database: sqlite3.Connection, path: Path, schema: Schema) -> None:
    """Make the tables, or see that they are the ones expected: a flipped bit may be in the file's version, too."""
    version, found = database.execute("PRAGMA user_version").fetchone()[0], _tables(database)
    expected = _expected(schema)
    if not found and version == 0:
        database.executescript(f"BEGIN;\n{schema.tables}PRAGMA user_version = {schema.version};\nCOMMIT;")
    elif version > schema.version and found != expected:
        raise StorageError(
            f"{schema.name} {path} has schema {version}, this version knows {schema.version}: use the newer ecg-edge, "
            "or move the file away (what is undelivered in it is then not sent)"
        )
    elif not expected <= found:
        raise sqlite3.DatabaseError("its tables are not those it was made with")
    else:
        database.execute(f"PRAGMA user_version = {schema.version}")  # written in any case, to see that it can be


def _expected(schema: Schema) -> set[tuple[str, str]]:
    database = sqlite3.connect(":memory:")
    try:
        database.executescript(schema.tables)
        return _tables(database)
    finally:
        database.close()


def _tables(database: sqlite3.Connection) -> set[tuple[str, str]]:
    rows = database.execute("SELECT CAST(name AS BLOB), CAST(sql AS BLOB) FROM sqlite_master WHERE sql IS NOT NULL")
    return {(bytes(name).decode(), bytes(sql).decode()) for name, sql in rows}
