"""What has been decided and not yet delivered, on disk: an alert decided is an alert delivered.

One SQLite file holds the open conditions and the messages that wait. A commit writes both in one transaction that is
on the platter (write-ahead log, synchronous=FULL) before it returns, so neither a crash of this process nor of the
machine loses it or leaves half of it.
"""

from __future__ import annotations

import sqlite3
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import msgspec
import structlog

from edge.alerts.events import AlertEvent, State, decode, encode
from edge.alerts.storefile import open_store_file
from edge.errors import PayloadError, StorageError, TopicError
from edge.stream.topics import alert_topic

MAX_MESSAGES = 100_000
ALERT_QOS = 1
WILDCARDS = frozenset("+#")
"""A broker ends the connection over a message on such a topic."""
MAX_TOLD = 1000
"""Characters of what cannot be read that are logged."""
_MESSAGES = "SELECT seq, CAST(topic AS BLOB), CAST(payload AS BLOB), qos, retain, created_ns FROM message"
"""As bytes, which can always be fetched, whatever became of them on the disk."""

_log = structlog.get_logger()


class OutgoingMessage(msgspec.Struct, frozen=True):
    """A message to be published; a retained one takes the place of an older one of its topic."""

    topic: str
    payload: bytes
    retain: bool = False
    qos: int = ALERT_QOS


class Committed(msgspec.Struct, frozen=True):
    """What a commit did."""

    seqs: tuple[int, ...]
    """The numbers of its messages, in their order."""
    dropped: tuple[tuple[int, str], ...] = ()
    """Numbers and topics of the messages that it pushed out of a full store."""


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
        self._unreadable: set[int] = set()
        self._database = open_store_file(path)
        self._count = int(self._database.execute("SELECT COUNT(*) FROM message").fetchone()[0])

    def commit(
        self, events: Iterable[AlertEvent], messages: Iterable[OutgoingMessage], now_ns: int | None = None
    ) -> Committed:
        """Store what the events make of their conditions together with the messages that tell of them, all or none.

        `now_ns` is the UTC time kept with the messages, by default the machine's. Raises StorageError when the disk
        refuses; nothing is stored then.
        """
        created_ns = time.time_ns() if now_ns is None else now_ns
        with self._exclusive() as database:
            with _all_or_nothing(database):
                for event in events:
                    _put_condition(database, event)
                put = [_put_message(database, message, created_ns) for message in messages]
                replaced = {old for _, replaced in put for old in replaced}
                added = len(put) - len(replaced)
                dropped = _drop_oldest(database, self._count + added - self._max_messages)
            self._count += added - len(dropped)
            self._unreadable -= replaced.union(seq for seq, _ in dropped)
        if dropped:
            self._report_dropped(len(dropped))
        return Committed(tuple(seq for seq, _ in put), dropped)

    def open_conditions(self, device: str | None = None) -> list[AlertEvent]:
        """Return the last event of every open condition, of one device or of all; unreadable ones are removed."""
        events = []
        for row, payload in self._query("SELECT rowid, event FROM condition ORDER BY device, code"):
            try:
                event = decode(payload)
                alert_topic(event.device, event.code)  # which nobody could be told on if it were damaged
                events.append(event)
            except (PayloadError, TopicError, TypeError) as error:
                _log.error("stored_condition_unreadable", condition=repr(payload)[:MAX_TOLD], problem=str(error))
                self._remove_condition(row)
        return [event for event in events if device in (None, event.device)]

    def pending(self, after_seq: int = 0, limit: int = 100) -> list[StoredMessage]:
        """Return the oldest messages with a number above `after_seq` that are not known to be delivered.

        Those that cannot be read are set aside: they stay in the file, count as `unreadable` and are told of once.
        """
        found: list[StoredMessage] = []
        while rows := self._query(f"{_MESSAGES} WHERE seq > ? ORDER BY seq LIMIT ?", after_seq, limit - len(found)):
            found += [stored for row in rows if (stored := self._readable(row)) is not None]
            after_seq = rows[-1][0]
        return found

    def read(self, seqs: Iterable[int]) -> dict[int, OutgoingMessage]:
        """Return the messages of these numbers that are still there; those that cannot be read are set aside."""
        found: dict[int, OutgoingMessage] = {}
        with self._exclusive() as database:
            for seq in seqs:
                try:
                    rows = database.execute(f"{_MESSAGES} WHERE seq = ?", (seq,)).fetchall()
                except sqlite3.DatabaseError as error:
                    if type(error) is not sqlite3.DatabaseError:
                        raise  # not this row is damaged: the disk refuses
                    self._set_aside(seq, str(error))
                else:
                    found.update((seq, stored.message) for row in rows if (stored := self._readable(row)) is not None)
        return found

    def pending_count(self) -> int:
        """Return how many messages wait."""
        return self._count - len(self._unreadable)

    @property
    def unreadable(self) -> int:
        """How many messages were found damaged and set aside since the store was opened."""
        return len(self._unreadable)

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

    def _remove_condition(self, row: int) -> None:
        try:
            with self._exclusive() as database:
                database.execute("DELETE FROM condition WHERE rowid = ?", (row,))
        except StorageError as error:
            _log.warning("stored_condition_not_removed", problem=str(error))

    def _readable(self, row: Sequence[Any]) -> StoredMessage | None:
        """Return the message of a row, None, and set aside, when no broker would take what stands there."""
        seq, topic, payload, qos, retain, created_ns = row
        try:
            text = topic.decode()
        except (UnicodeDecodeError, AttributeError) as error:
            problem = str(error)
        else:
            if payload is not None and text and text.isprintable() and not set(text) & WILDCARDS:
                return StoredMessage(seq, OutgoingMessage(text, payload, bool(retain), qos), created_ns)
            problem = "no topic, or no payload"
        self._set_aside(seq, problem, topic, payload)
        return None

    def _set_aside(self, seq: int, problem: str, topic: object = None, payload: object = None) -> None:
        if seq not in self._unreadable:
            self._unreadable.add(seq)
            _log.error("stored_message_unreadable", seq=seq, problem=problem, topic=repr(topic)[:MAX_TOLD],
                       payload=repr(payload)[:MAX_TOLD])  # fmt: skip

    def _query(self, sql: str, *values: object) -> list[Any]:
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
        (_log.debug if self.dropped else _log.warning)("alert_store_full", dropped=dropped, limit=self._max_messages)
        self.dropped += dropped
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


def _put_message(database: sqlite3.Connection, message: OutgoingMessage, created_ns: int) -> tuple[int, list[int]]:
    """Store a message; return its number and those of older ones that it replaced."""
    replaced = []
    if message.retain:
        replacing = "DELETE FROM message WHERE topic = ? AND retain = 1 RETURNING seq"
        replaced = [seq for (seq,) in database.execute(replacing, (message.topic,))]
    values = (message.topic, message.payload, message.qos, int(message.retain), created_ns)
    put = "INSERT INTO message (topic, payload, qos, retain, created_ns) VALUES (?, ?, ?, ?, ?)"
    return database.execute(put, values).lastrowid or 0, replaced


def _drop_oldest(database: sqlite3.Connection, excess: int) -> tuple[tuple[int, str], ...]:
    """Drop so many messages, lines of the log before conditions; return their numbers and topics."""
    if excess <= 0:
        return ()
    oldest = "SELECT seq FROM message ORDER BY retain, seq LIMIT ?"
    dropping = f"DELETE FROM message WHERE seq IN ({oldest}) RETURNING seq, CAST(topic AS BLOB)"  # noqa: S608
    return tuple((seq, topic.decode(errors="replace")) for seq, topic in database.execute(dropping, (excess,)))
