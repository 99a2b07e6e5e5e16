"""What has been decided and not yet delivered, on disk: an alert decided is an alert delivered.

One SQLite file holds the open conditions and the messages that wait. A commit writes both in one transaction that is
on the platter (write-ahead log, synchronous=FULL) before it returns, so neither a crash of this process nor of the
machine loses it or leaves half of it.
"""

from __future__ import annotations

import sqlite3
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import msgspec
import structlog

from edge.alerts.events import AlertEvent, State, decode, encode
from edge.alerts.storefile import open_store_file
from edge.errors import PayloadError, StorageError
from edge.stream.topics import alert_topic

MAX_MESSAGES = 100_000
ALERT_QOS = 1

_log = structlog.get_logger()


class OutgoingMessage(msgspec.Struct, frozen=True):
    """A message to be published; a retained one takes the place of an older one of its topic."""

    topic: str
    payload: bytes
    retain: bool = False
    qos: int = ALERT_QOS


class StoredMessage(msgspec.Struct, frozen=True):
    """A message that waits, with its number: numbers grow and are never used again."""

    seq: int
    message: OutgoingMessage
    created_ns: int


def messages_of(event: AlertEvent) -> tuple[OutgoingMessage, ...]:
    """Return what an event puts out: the retained condition of its code, and a line in the device's log."""
    payload = encode(event)
    return (
        OutgoingMessage(alert_topic(event.device, event.code), payload, retain=True),
        OutgoingMessage(alert_topic(event.device), payload),
    )


class AlertStore:
    """Open conditions and undelivered messages in one file. Blocking; safe to call from any thread."""

    def __init__(
        self, path: Path, max_messages: int = MAX_MESSAGES, on_dropped: Callable[[int], None] | None = None
    ) -> None:
        """Open or create the file; a damaged one is moved aside and a new one begun.

        `on_dropped` is told how many undelivered messages a commit pushed out of a full store. Raises StorageError
        when the file cannot be used.
        """
        self.path = path
        self.dropped = 0
        """Undelivered messages that were pushed out since the store was opened."""
        self._max_messages = max_messages
        self._on_dropped = on_dropped
        self._lock = threading.Lock()
        self._database = open_store_file(path)
        self._count = int(self._database.execute("SELECT COUNT(*) FROM message").fetchone()[0])

    def commit(
        self, events: Iterable[AlertEvent], messages: Iterable[OutgoingMessage], now_ns: int | None = None
    ) -> None:
        """Store what the events make of their conditions together with the messages that tell of them, all or none.

        `now_ns` is the UTC time kept with the messages, by default the machine's. Raises StorageError when the disk
        refuses; nothing is stored then.
        """
        created_ns = time.time_ns() if now_ns is None else now_ns
        with self._exclusive() as database:
            with _all_or_nothing(database):
                for event in events:
                    _put_condition(database, event)
                added = sum(_put_message(database, message, created_ns) for message in messages)
                dropped = _drop_oldest(database, self._count + added - self._max_messages)
            self._count += added - dropped
        if dropped:
            self._report_dropped(dropped)

    def open_conditions(self, device: str | None = None) -> list[AlertEvent]:
        """Return the last event of every open condition, of one device or of all; unreadable ones are removed."""
        rows = self._query(
            "SELECT device, code, event FROM condition WHERE device = ?1 OR ?1 IS NULL ORDER BY device, code", (device,)
        )
        events = []
        for owner, code, payload in rows:
            try:
                events.append(decode(payload))
            except PayloadError as error:
                _log.error("stored_condition_unreadable", device=owner, code=code, problem=str(error))
                self._remove_condition(owner, code)
        return events

    def pending(self, after_seq: int = 0, limit: int = 100) -> list[StoredMessage]:
        """Return the oldest messages with a number above `after_seq` that are not known to be delivered."""
        rows = self._query(
            "SELECT seq, topic, payload, qos, retain, created_ns FROM message WHERE seq > ? ORDER BY seq LIMIT ?",
            (after_seq, limit),
        )
        return [
            StoredMessage(seq, OutgoingMessage(topic, payload, bool(retain), qos), created_ns)
            for seq, topic, payload, qos, retain, created_ns in rows
        ]

    def pending_count(self) -> int:
        """Return how many messages wait."""
        return self._count

    def delivered(self, *seqs: int) -> None:
        """Forget messages that the broker has acknowledged; unknown numbers are passed over."""
        if not seqs:
            return
        with self._exclusive() as database:
            with _all_or_nothing(database):
                removed = database.executemany("DELETE FROM message WHERE seq = ?", [(seq,) for seq in seqs]).rowcount
            self._count -= removed

    def close(self) -> None:
        """Close the file; what is stored stays."""
        with self._lock:
            self._database.close()

    def _remove_condition(self, device: str, code: str) -> None:
        with self._exclusive() as database:
            database.execute("DELETE FROM condition WHERE device = ? AND code = ?", (device, code))

    def _query(self, sql: str, values: tuple[object, ...]) -> list[Any]:
        with self._exclusive() as database:
            return database.execute(sql, values).fetchall()

    @contextmanager
    def _exclusive(self) -> Iterator[sqlite3.Connection]:
        """Give one thread at a time the database; its errors become StorageError."""
        with self._lock:
            try:
                yield self._database
            except sqlite3.Error as error:
                raise StorageError(f"alert store {self.path}: {error}; check the disk's space and health") from None

    def _report_dropped(self, dropped: int) -> None:
        self.dropped += dropped
        _log.warning("alert_store_full", dropped=dropped, limit=self._max_messages)
        if self._on_dropped is not None:
            self._on_dropped(dropped)


@contextmanager
def _all_or_nothing(database: sqlite3.Connection) -> Iterator[None]:
    """Commit at the end, or roll back whatever was done."""
    database.execute("BEGIN IMMEDIATE")
    try:
        yield
        database.execute("COMMIT")
    except BaseException:
        if database.in_transaction:
            database.execute("ROLLBACK")
        raise


def _put_condition(database: sqlite3.Connection, event: AlertEvent) -> None:
    if event.state is State.CLEARED:
        database.execute("DELETE FROM condition WHERE device = ? AND code = ?", (event.device, event.code))
    else:
        values = (event.device, event.code, encode(event))
        database.execute("INSERT OR REPLACE INTO condition VALUES (?, ?, ?)", values)


def _put_message(database: sqlite3.Connection, message: OutgoingMessage, created_ns: int) -> int:
    """Store a message; return by how much the number of stored ones grew."""
    replaced = 0
    if message.retain:
        replaced = database.execute("DELETE FROM message WHERE topic = ? AND retain = 1", (message.topic,)).rowcount
    values = (message.topic, message.payload, message.qos, int(message.retain), created_ns)
    database.execute("INSERT INTO message (topic, payload, qos, retain, created_ns) VALUES (?, ?, ?, ?, ?)", values)
    return 1 - replaced


def _drop_oldest(database: sqlite3.Connection, excess: int) -> int:
    """Drop so many messages, lines of the log before conditions; return how many it were."""
    if excess <= 0:
        return 0
    oldest = "SELECT seq FROM message ORDER BY retain, seq LIMIT ?"
    return database.execute(f"DELETE FROM message WHERE seq IN ({oldest})", (excess,)).rowcount  # noqa: S608
