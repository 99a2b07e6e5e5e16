"""Snapshots of streams on disk, so that a restart does not forget them: plain arrays and numbers, no pickle.

A snapshot may be lost without harm (the stream warms up again), so writes are not forced to the disk's platter.
"""

from __future__ import annotations

import sqlite3
import zlib
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal, get_args

import msgspec
import numpy as np
import structlog
from numpy.typing import NDArray

from edge.database import Schema, open_database, parts_of
from edge.errors import StorageError
from edge.stream.wire import Layout

MODEL_PREFIX = "model."
MAX_ARRAY_BYTES = 16 * 1024 * 1024
CHECKSUM_BYTES = 4
DTypeName = Literal["float32", "float64", "int64", "uint8", "bool"]
DTYPE_NAMES: dict[np.dtype[Any], DTypeName] = {np.dtype(name): name for name in get_args(DTypeName)}
"""NumPy takes microseconds to find out what a type is called."""

SCHEMA = Schema(
    name="snapshots",
    version=1,
    synchronous="NORMAL",
    tables="CREATE TABLE snapshot (device TEXT PRIMARY KEY, saved_at_ns INTEGER, state BLOB) STRICT;\n",
)

Arrays = Mapping[str, NDArray[np.generic]]

log = structlog.get_logger(__name__)


class PackedArray(msgspec.Struct, frozen=True, array_like=True):
    """One array: type, shape and bytes, checked against each other when it is unpacked."""

    dtype: DTypeName
    shape: tuple[int, ...]
    data: bytes


class Snapshot(msgspec.Struct, frozen=True, kw_only=True):
    """One stream at one moment."""

    version: Literal[1] = 1
    device: str
    model_hash: str
    saved_at_ns: int
    layout: Layout
    expected: int
    time_index: int
    time_ns: int | None
    past_sessions: list[str]
    held: list[bytes]
    """Chunks that waited for a missing one, as MessagePack: they were acknowledged, so nobody sends them again."""
    chunk_s: float = 0.0
    hops_seen: int
    alerts: dict[str, object]
    arrays: dict[str, PackedArray]

    def with_model(self, state: Arrays) -> Snapshot:
        """Return this snapshot with the model's own state in it."""
        model = pack({f"{MODEL_PREFIX}{name}": array for name, array in state.items()})
        return msgspec.structs.replace(self, arrays=self.arrays | model)


def pack(arrays: Arrays) -> dict[str, PackedArray]:
    """Turn arrays into what a snapshot holds."""
    return {name: PackedArray(DTYPE_NAMES[array.dtype], array.shape, array.tobytes()) for name, array in arrays.items()}


def unpack(packed: Mapping[str, PackedArray]) -> dict[str, NDArray[np.generic]]:
    """Turn them back; raises StorageError when type, shape and bytes do not agree."""
    return {name: _unpacked(name, array) for name, array in packed.items()}


def _unpacked(name: str, packed: PackedArray) -> NDArray[np.generic]:
    dtype = np.dtype(packed.dtype)
    size = int(np.prod(packed.shape, dtype=np.int64)) * dtype.itemsize
    if any(n < 0 for n in packed.shape) or size != len(packed.data) or size > MAX_ARRAY_BYTES:
        raise StorageError(f"snapshot array {name} does not have the size it states")
    array: NDArray[np.generic] = np.frombuffer(packed.data, dtype=dtype).reshape(packed.shape).copy()
    return array


class SnapshotStore:
    """One row per device in an SQLite file. Blocking: call it from a worker thread, one call at a time.

    Raises StorageError when the disk refuses. A damaged file is begun anew.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._database = open_database(path, SCHEMA, _remove)

    def write(self, snapshots: Iterable[Snapshot]) -> int:
        """Replace the rows of these devices, all or none; return how many bytes they are."""
        rows = [(s.device, s.saved_at_ns, sealed(msgspec.msgpack.encode(s))) for s in snapshots]
        with self._errors_told():
            self._database.execute("BEGIN")
            try:
                self._database.executemany("INSERT OR REPLACE INTO snapshot VALUES (?, ?, ?)", rows)
                self._database.execute("COMMIT")
            except sqlite3.Error:
                if self._database.in_transaction:
                    self._database.execute("ROLLBACK")
                raise
        return sum(len(state) for _, _, state in rows)

    def read(self, newer_than_ns: int) -> list[Snapshot]:
        """Return the snapshots worth restoring; older and unreadable ones are removed."""
        with self._errors_told():
            self._database.execute("DELETE FROM snapshot WHERE saved_at_ns < ?", (newer_than_ns,))
            rows = self._database.execute("SELECT rowid, state FROM snapshot ORDER BY device").fetchall()
        read = []
        for row, state in rows:
            try:
                read.append(msgspec.msgpack.decode(unsealed(state), type=Snapshot))
            except (msgspec.MsgspecError, ValueError) as error:
                log.warning("snapshot_damaged", problem=str(error))
                with self._errors_told():
                    self._database.execute("DELETE FROM snapshot WHERE rowid = ?", (row,))
        return read

    def remove(self, device: str) -> None:
        """Forget a device."""
        with self._errors_told():
            self._database.execute("DELETE FROM snapshot WHERE device = ?", (device,))

    def close(self) -> None:
        """Close the file."""
        self._database.close()

    @contextmanager
    def _errors_told(self) -> Iterator[None]:
        try:
            yield
        except (sqlite3.Error, UnicodeError) as error:
            raise StorageError(
                f"snapshots {self.path}: {error}; check the disk, or remove the file to start without them"
            ) from None


def sealed(state: bytes) -> bytes:
    """Put a checksum before the bytes: SQLite has none, and notices no bit that flips inside a value."""
    return zlib.crc32(state).to_bytes(CHECKSUM_BYTES, "little") + state


def unsealed(sealed: bytes) -> bytes:
    """Return the bytes behind their checksum; raises ValueError when they are not what was written."""
    state = sealed[CHECKSUM_BYTES:]
    if zlib.crc32(state) != int.from_bytes(sealed[:CHECKSUM_BYTES], "little"):
        raise ValueError("its bytes are not those that were written")
    return state


def _remove(path: Path, problem: str) -> None:
    log.warning("snapshots_damaged", path=str(path), problem=problem)
    for part in parts_of(path):
        part.unlink()
