"""The alert store: what was committed is there, whole, whatever happened to the process or the file."""

from __future__ import annotations

import os
import signal
import sqlite3
import subprocess
import sys
import threading
from contextlib import closing
from pathlib import Path

import msgspec
import numpy as np
import pytest

from edge.alerts.events import AlertEvent, Point, Priority, State
from edge.alerts.outbox import AlertStore, OutgoingMessage, messages_of
from edge.database import sqlite_problem
from edge.errors import StorageError

REPOSITORY = Path(__file__).resolve().parents[2]
NOW_NS = 1_700_000_000_000_000_000


def alert(revision=0, state=State.RAISED, device="bed-1", code="mi", identifier="c1") -> AlertEvent:
    return AlertEvent(
        id=identifier, revision=revision, device=device, session="s1", kind="class", class_name=code.upper(), code=code,
        state=state, priority=Priority.HIGH, onset=Point(1), at=Point(2), node="node-1",
    )  # fmt: skip


def put(store: AlertStore, *events: AlertEvent) -> None:
    store.commit(events, [message for event in events for message in messages_of(event)], NOW_NS)


@pytest.fixture
def path(tmp_path) -> Path:
    return tmp_path / "alerts.sqlite"


@pytest.fixture
def store(path):
    store = AlertStore(path)
    yield store
    store.close()


def test_an_event_becomes_a_retained_condition_and_a_line_of_the_log():
    condition, line = messages_of(alert(code="mi"))
    assert (condition.topic, condition.retain, condition.qos) == ("ecg/v1/bed-1/alert/mi", True, 1)
    assert (line.topic, line.retain, line.qos) == ("ecg/v1/bed-1/alert", False, 1)
    assert condition.payload == line.payload


def test_what_was_committed_is_there_after_opening_the_file_again(path):
    first = AlertStore(path)
    put(first, alert())
    first.close()
    again = AlertStore(path)
    assert again.open_conditions() == [alert()]
    assert [stored.message for stored in again.pending()] == list(messages_of(alert()))
    assert again.pending()[0].created_ns == NOW_NS
    again.close()


def test_open_conditions_are_the_newest_events_of_those_not_cleared(store):
    put(store, alert(), alert(device="bed-2"), alert(code="cd"))
    put(store, alert(1, State.UPDATED), alert(1, State.CLEARED, code="cd"))
    assert store.open_conditions() == [alert(1, State.UPDATED), alert(device="bed-2")]
    assert store.open_conditions("bed-2") == [alert(device="bed-2")]
    assert store.open_conditions("bed-3") == []


def test_messages_come_in_the_order_they_were_committed_and_in_pages(store):
    messages = [OutgoingMessage("log", b"%d" % n) for n in range(7)]
    for message in messages:
        store.commit([], [message], NOW_NS)
    page = store.pending(limit=3)
    rest = store.pending(after_seq=page[-1].seq, limit=100)
    assert [stored.message for stored in page + rest] == messages
    assert store.pending_count() == 7


def test_delivered_messages_are_gone_and_their_numbers_are_not_used_again(store):
    put(store, alert())
    seqs = [stored.seq for stored in store.pending()]
    store.delivered(*seqs)
    store.delivered(*seqs)
    store.delivered()
    assert (store.pending(), store.pending_count()) == ([], 0)
    put(store, alert(1, State.UPDATED))
    assert store.pending()[0].seq > max(seqs)


def test_of_a_retained_topic_only_the_newest_waits_and_the_log_keeps_all(store):
    for revision in range(5):
        put(store, alert(revision, State.UPDATED if revision else State.RAISED))
    payloads = [msgspec.json.decode(stored.message.payload)["revision"] for stored in store.pending()]
    assert [stored.message.retain for stored in store.pending()].count(True) == 1
    assert payloads == [0, 1, 2, 3, 4, 4]
    assert store.pending_count() == 6


def test_an_acknowledgement_of_a_message_that_was_replaced_does_not_remove_the_newer_one(store):
    put(store, alert())
    old = store.pending()[0].seq
    put(store, alert(1, State.UPDATED))
    store.delivered(old)
    assert [stored.message for stored in store.pending() if stored.message.retain] == [
        messages_of(alert(1, State.UPDATED))[0]
    ]


def test_a_full_store_drops_the_oldest_of_the_log_first_and_says_how_many(path):
    told = []
    store = AlertStore(path, max_messages=4, on_dropped=told.append)
    for revision in range(6):
        put(store, alert(revision, State.UPDATED))
    kept = [
        (stored.message.retain, msgspec.json.decode(stored.message.payload)["revision"]) for stored in store.pending()
    ]
    assert kept == [(False, 3), (False, 4), (True, 5), (False, 5)]
    assert (sum(told), store.dropped, store.pending_count()) == (3, 3, 4)
    store.close()


def test_a_full_store_keeps_conditions_longer_than_lines_of_the_log(path):
    store = AlertStore(path, max_messages=3)
    condition = OutgoingMessage("condition", b"old", retain=True)
    store.commit([], [condition, *(OutgoingMessage("log", b"%d" % n) for n in range(4))], NOW_NS)
    assert [stored.message.payload for stored in store.pending()] == [b"old", b"2", b"3"]
    store.close()


def test_a_failed_commit_stores_nothing_of_it(store):
    put(store, alert())
    with pytest.raises(ZeroDivisionError):
        store.commit([alert(1, State.CLEARED)], (OutgoingMessage("log", b"%d" % (1 // n)) for n in (1, 0)), NOW_NS)
    assert store.open_conditions() == [alert()]
    assert store.pending_count() == len(store.pending()) == 2


def test_any_thread_may_commit(store):
    def work(number: int) -> None:
        for revision in range(20):
            put(store, alert(revision, device=f"bed-{number}"))

    threads = [threading.Thread(target=work, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(store.open_conditions()) == 4
    assert store.pending_count() == len(store.pending(limit=1000)) == 4 * 20 + 4


@pytest.mark.parametrize("kind", ["no database", "overwritten pages", "cut short"])
def test_a_damaged_file_is_moved_aside_and_a_new_one_begun(path, kind):
    store = AlertStore(path)
    for number in range(200):
        put(store, alert(device=f"bed-{number}"))
    store.close()
    whole = path.read_bytes()
    damaged = {
        "no database": b"this is no database at all" * 100,
        "overwritten pages": whole[:4096] + b"\xa5" * (len(whole) - 4096),
        "cut short": whole[: len(whole) // 2],
    }[kind]
    path.write_bytes(damaged)
    store = AlertStore(path)
    put(store, alert())
    assert store.open_conditions() == [alert()]
    store.close()
    (moved,) = path.parent.glob("alerts.sqlite.damaged-*")
    assert moved.read_bytes()[:4096] == damaged[:4096]


@pytest.mark.parametrize("byte", [*range(16, 24), 47, *range(56, 64)])
@pytest.mark.parametrize("bit", [0, 3, 7])
def test_no_flipped_bit_of_the_header_keeps_the_store_from_being_used(path, byte, bit):
    flip_and_use(path, byte, bit)


@pytest.mark.parametrize("share", np.linspace(0.0, 1.0, 60, endpoint=False))
def test_no_flipped_bit_of_the_schema_keeps_the_store_from_being_used(path, share):
    AlertStore(path).close()
    first_page = path.read_bytes()[:4096]
    used = [at for at, byte in enumerate(first_page) if byte and at >= 100]
    flip_and_use(path, used[round(share * len(used))], bit=round(share * 1000) % 8)


def flip_and_use(path: Path, byte: int, bit: int) -> None:
    """Flip a bit of a store's file and see that it can be used: as it is, or begun anew with the old one kept."""
    store = AlertStore(path)
    put(store, alert())
    store.close()
    whole = bytearray(path.read_bytes())
    whole[byte] ^= 1 << bit
    path.write_bytes(whole)
    store = AlertStore(path)
    kept = store.open_conditions()
    put(store, alert(device="bed-2"))
    assert [event.device for event in store.open_conditions()] == [*(event.device for event in kept), "bed-2"]
    store.close()
    assert (kept == [alert()]) != any(path.parent.glob("*damaged*"))


def test_a_commit_is_on_the_platter_when_it_returns(store):
    """Which no killed process can show, only a power cut."""
    assert store._database.execute("PRAGMA synchronous").fetchone() == (2,)  # FULL


def test_a_flipped_bit_in_the_version_costs_nothing(path):
    store = AlertStore(path)
    put(store, alert())
    store.close()
    with closing(sqlite3.connect(path)) as database:
        database.execute("PRAGMA user_version = 4097")
    store = AlertStore(path)
    assert store.open_conditions() == [alert()]
    store.close()


def test_a_store_that_somebody_is_looking_into_is_not_called_damaged(path, monkeypatch):
    monkeypatch.setattr("edge.database.BUSY_TIMEOUT_S", 0.1)
    AlertStore(path).close()
    with closing(sqlite3.connect(path, isolation_level=None)) as other:
        other.execute("BEGIN EXCLUSIVE")
        with pytest.raises(StorageError, match="locked"):
            AlertStore(path)
    assert list(path.parent.glob("*damaged*")) == []


def test_a_file_of_a_newer_version_is_left_alone(path):
    AlertStore(path).close()
    database = sqlite3.connect(path)
    database.execute("CREATE TABLE of_tomorrow (at INTEGER)")
    database.execute("PRAGMA user_version = 99")
    database.close()
    with pytest.raises(StorageError, match="schema 99"):
        AlertStore(path)
    assert list(path.parent.glob("*damaged*")) == []


def test_a_folder_that_is_not_there_is_an_error_that_says_so(tmp_path):
    with pytest.raises(StorageError, match="folder must exist"):
        AlertStore(tmp_path / "missing" / "alerts.sqlite")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_folder_that_may_not_be_written_is_an_error(tmp_path):
    tmp_path.chmod(0o500)
    with pytest.raises(StorageError, match="writable"):
        AlertStore(tmp_path / "alerts.sqlite")


def test_a_condition_that_cannot_be_read_is_removed_and_the_others_stay(path, store):
    put(store, alert(), alert(code="cd"))
    database = sqlite3.connect(path)
    with database:
        database.execute("UPDATE condition SET event = ? WHERE code = 'mi'", (b"{broken",))
    database.close()
    assert store.open_conditions() == [alert(code="cd")]
    assert store.open_conditions() == [alert(code="cd")]


@pytest.mark.parametrize(
    ("sound", "damaged"), [(b'"device":"bed-1"', b'"device":"Bed-1"'), (b'"code":"mi"', b'"code":"m)"')]
)
def test_a_condition_that_nobody_could_be_told_of_is_removed(path, store, sound, damaged):
    put(store, alert(), alert(device="bed-2", code="cd"))
    database = sqlite3.connect(path)
    with database:
        database.execute(
            "UPDATE condition SET event = CAST(replace(event, ?, ?) AS BLOB) WHERE code = 'mi'", (sound, damaged)
        )
    database.close()
    assert store.open_conditions() == [alert(device="bed-2", code="cd")]
    assert store.open_conditions() == [alert(device="bed-2", code="cd")]


def flip_one_bit(path: Path, before: bytes) -> None:
    """Damage the first byte behind these, where it stands in the table."""
    raw = bytearray(path.read_bytes())
    at = raw.index(before) + len(before)
    raw[at] ^= 0x80
    path.write_bytes(raw)


@pytest.mark.parametrize("retained", [False, True])
def test_a_message_with_one_flipped_bit_in_its_topic_is_set_aside_and_the_others_stay(path, retained):
    store = AlertStore(path)
    put(store, alert(device="bed-2"), alert())
    store.close()
    flip_one_bit(path, b"ecg/v1/" if not retained else b"ecg/v1/bed-1/")
    store = AlertStore(path)
    before = [stored.seq for stored in store.pending()]
    assert (len(before), store.unreadable, store.pending_count()) == (3, 1, 3)
    assert store.read(range(10)).keys() == set(before)
    put(store, alert(1, State.UPDATED), alert(1, State.UPDATED, device="bed-2"))
    assert store.pending_count() == len(store.pending())
    assert [it.message for it in store.pending() if it.seq > max(before)] == [
        message for device in ("bed-1", "bed-2") for message in messages_of(alert(1, State.UPDATED, device))
    ]
    store.close()


@pytest.mark.parametrize(
    "topic", [b"\xff", b"a/+/b", b"a/#", b"a\x00b", b"\x1b", "\N{CYRILLIC SMALL LETTER A}\u0085".encode(), b""]
)
def test_a_topic_on_which_nothing_may_be_published_is_not_read(path, store, topic):
    put(store, alert())
    with closing(sqlite3.connect(path, isolation_level=None)) as database:
        database.execute("UPDATE message SET topic = CAST(? AS TEXT) WHERE seq = 1", (topic,))
    assert [stored.seq for stored in store.pending()] == [2]
    assert list(store.read([1, 2, 3])) == [2]
    assert (store.unreadable, store.pending_count()) == (1, 1)


def test_pages_go_on_behind_messages_that_cannot_be_read(path, store):
    put(store, *(alert(number, State.UPDATED) for number in range(20)))
    with closing(sqlite3.connect(path, isolation_level=None)) as database:
        database.execute("UPDATE message SET topic = CAST(x'ff' AS TEXT) WHERE retain = 0 AND seq < 30")
    first = store.pending(limit=3)
    assert len(first) == 3
    assert len(first + store.pending(first[-1].seq, 1000)) == store.pending_count() == 21 - store.unreadable


def test_a_commit_tells_the_numbers_of_its_messages_and_what_had_to_make_room(path):
    store = AlertStore(path, max_messages=2)
    messages = [OutgoingMessage(topic, b"") for topic in ("a", "b")]
    first = store.commit([], messages, NOW_NS)
    assert first.seqs == tuple(stored.seq for stored in store.pending())
    second = store.commit([], messages, NOW_NS)
    assert second.dropped == tuple(zip(first.seqs, "ab", strict=True))
    assert store.read([*first.seqs, *second.seqs]) == dict(zip(second.seqs, messages, strict=True))
    store.close()


def test_a_condition_whose_device_cannot_be_read_is_known_by_its_event(path, store):
    put(store, alert(), alert(code="cd"))
    with closing(sqlite3.connect(path, isolation_level=None)) as database:
        database.execute("UPDATE condition SET device = CAST(x'62ff' AS TEXT) WHERE code = 'mi'")
    assert sorted(store.open_conditions(), key=lambda event: event.code) == [alert(code="cd"), alert()]


def test_a_condition_that_can_be_neither_read_nor_removed_hides_no_other(path, store):
    put(store, alert(), alert(code="cd"))
    with closing(sqlite3.connect(path, isolation_level=None)) as database:
        database.execute("UPDATE condition SET event = x'00' WHERE code = 'mi'")
        database.execute("CREATE TRIGGER no BEFORE DELETE ON condition BEGIN SELECT RAISE(ABORT, 'disk is full'); END")
    assert store.open_conditions() == [alert(code="cd")]


def test_a_disk_that_refuses_is_an_error_and_the_store_goes_on_when_there_is_room(store):
    pages = store._database.execute("PRAGMA page_count").fetchone()[0]
    store._database.execute(f"PRAGMA max_page_count = {pages}")
    with pytest.raises(StorageError, match="full"):
        store.commit([alert()], [OutgoingMessage("log", bytes(1_000_000))], NOW_NS)
    assert (store.open_conditions(), store.pending_count()) == ([], 0)
    store._database.execute(f"PRAGMA max_page_count = {pages + 10_000}")
    put(store, alert())
    assert store.open_conditions() == [alert()]


COMMITTER = """
import sys
from pathlib import Path
from edge.alerts.events import AlertEvent, Point, Priority, State
from edge.alerts.outbox import AlertStore, messages_of

store = AlertStore(Path(sys.argv[1]))
before = store.open_conditions()
number = before[0].revision + 1 if before else 0
while True:
    event = AlertEvent(
        id="c1", revision=number, device="bed-1", session="s1", kind="technical", code="noise", state=State.UPDATED,
        priority=Priority.LOW, onset=Point(0), at=Point(number), node="node-1",
    )
    store.commit([event], messages_of(event), number)
    print(number, flush=True)
    number += 1
"""


def commit_until_killed(path: Path, commits: int) -> int:
    """Run a process that commits without end, kill it after so many reports; return the last number reported."""
    child = subprocess.Popen(
        [sys.executable, "-c", COMMITTER, str(path)], cwd=REPOSITORY, stdout=subprocess.PIPE, text=True
    )
    with child:
        reported = [child.stdout.readline() for _ in range(commits)]
        child.send_signal(signal.SIGKILL)
        reported += child.stdout.readlines()
    return int(next(line for line in reversed(reported) if line.endswith("\n")))


def test_a_process_killed_in_the_middle_of_commits_loses_nothing_it_reported_and_leaves_no_half(path):
    for commits in (1, 2, 5, 9, 14, 23):
        reported = commit_until_killed(path, commits)
        store = AlertStore(path)
        (condition,) = store.open_conditions()
        stored = store.pending(limit=100_000)
        store.close()
        assert condition.revision in (reported, reported + 1)
        log = [msgspec.json.decode(s.message.payload)["revision"] for s in stored if not s.message.retain]
        retained = [msgspec.json.decode(s.message.payload)["revision"] for s in stored if s.message.retain]
        assert log == list(range(condition.revision + 1))
        assert retained == [condition.revision]
    assert list(path.parent.glob("*damaged*")) == []


def test_a_sqlite_that_is_too_old_says_so_and_not_that_the_disk_is_full(tmp_path, monkeypatch):
    assert sqlite_problem() is None
    assert "3.34.1" in str(sqlite_problem((3, 34, 1)))
    monkeypatch.setattr("edge.database.sqlite_problem", lambda: sqlite_problem((3, 36, 0)))
    with pytest.raises(StorageError, match=r"^Python has SQLite 3\.36\.0 here, 3\.37 or newer is needed"):
        AlertStore(tmp_path / "alerts.sqlite")
