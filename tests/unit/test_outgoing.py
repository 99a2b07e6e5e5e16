"""The outbox: alerts leave in order, past what the broker refuses and whatever the disk does."""

from __future__ import annotations

import asyncio
import random
import sqlite3
import threading
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import asynccontextmanager, closing, contextmanager
from pathlib import Path
from typing import Any

import pytest
from structlog.testing import capture_logs

from edge.alerts.events import AlertEvent, State, decode
from edge.alerts.outbox import AlertStore, messages_of
from edge.daemon.metrics import Metrics
from edge.daemon.outgoing import MAX_WAIT_S, Outgoing
from edge.daemon.transport import ConnectionState
from edge.daemon.workers import Disk
from edge.errors import MessageRefusedError, StorageError, TransportError
from tests.helpers import eventually
from tests.unit.test_outbox import alert, put

DENIED = "Not authorized"


class Broker:
    """Stands in for the transport and the broker behind it: takes what comes, unless a test says otherwise."""

    def __init__(self) -> None:
        self.state = ConnectionState.CONNECTED
        self.taken: list[tuple[str, AlertEvent, bool]] = []
        self.asked = 0
        self.refuses: Callable[[str], str | None] = lambda topic: None
        self.is_away: Callable[[], bool] = lambda: False
        self.never_answered: str | None = None

    async def publish(self, topic: str, payload: bytes, qos: int = 0, retain: bool = False) -> None:
        self.asked += 1
        await asyncio.sleep(0)
        if self.is_away():
            raise TransportError("not connected")
        if reason := self.refuses(topic):
            raise MessageRefusedError("broker:1883", topic, reason)
        if topic == self.never_answered:
            await asyncio.Event().wait()
        self.taken.append((topic, decode(payload), retain))

    def log_of(self, device: str) -> list[int]:
        """The revisions that came in the log of a device."""
        return [event.revision for topic, event, _ in self.taken if topic == f"ecg/v1/{device}/alert"]

    def conditions_of(self, device: str, code: str = "mi") -> list[int]:
        """The revisions that came as a condition of a device, retained."""
        topic = f"ecg/v1/{device}/alert/{code}"
        return [event.revision for found, event, retain in self.taken if found == topic and retain]


class Clock:
    """The machine's, that a test may put forward."""

    ahead_s = 0.0

    def monotonic_s(self) -> float:
        return asyncio.get_event_loop().time() + self.ahead_s

    def utc_ns(self) -> int:
        return 1_700_000_000_000_000_000


class Outbox:
    """An outbox that runs, and the parts around it."""

    def __init__(self, path: Path) -> None:
        self.path, self.broker, self.clock, self.metrics = path, Broker(), Clock(), Metrics()
        self.disk = Disk("disk", 2.0)
        self.store = AlertStore(path, on_dropped=self.metrics.dropped_alerts.inc)

    def begin(self) -> None:
        self.outgoing = Outgoing(self.store, self.disk, self.broker, self.clock, self.metrics)  # type: ignore[arg-type]
        self.task = asyncio.create_task(self.outgoing.run())

    async def alert(self, *events: AlertEvent) -> None:
        await self.outgoing.take(events)

    async def settled(self) -> None:
        await eventually(lambda: self.outgoing.settled, what="the end of all that can be done")

    def count(self, name: str, **labels: str) -> float:
        return self.metrics.registry.get_sample_value(f"ecg_edge_{name}", labels) or 0.0

    @contextmanager
    def disk_that_refuses(self, *operations: str) -> Iterator[None]:
        """Nothing can be inserted, or deleted, as these words say."""
        with closing(sqlite3.connect(self.path, isolation_level=None)) as other:
            for operation in operations:
                refuse = "SELECT RAISE(ABORT, 'disk is full')"
                other.execute(f"CREATE TRIGGER no_{operation} BEFORE {operation} ON message BEGIN {refuse}; END")
            yield
            for operation in operations:
                other.execute(f"DROP TRIGGER no_{operation}")


@asynccontextmanager
async def outbox_at(path: Path, prepare: Callable[[Outbox], object] = lambda box: None) -> AsyncIterator[Outbox]:
    box = Outbox(path)
    prepare(box)
    box.begin()
    try:
        yield box
    finally:
        box.task.cancel()
        await asyncio.wait([box.task])
        box.disk.close()
        box.store.close()
    assert box.task.cancelled(), box.task


@pytest.fixture(autouse=True)
def _in_haste(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("edge.daemon.troubles.RETRY_S", 0.02)
    monkeypatch.setattr("edge.daemon.outgoing.RETRY_S", 0.02)
    monkeypatch.setattr("edge.daemon.lanes.REFUSED_MIN_S", 0.02)
    monkeypatch.setattr("edge.daemon.lanes.REFUSED_MAX_S", 0.05)


@pytest.fixture
async def box(tmp_path: Path) -> AsyncIterator[Outbox]:
    async with outbox_at(tmp_path / "alerts.sqlite") as box:
        yield box


@pytest.fixture
def told() -> Iterator[list[Any]]:
    with capture_logs() as logs:
        yield logs


def lines(told: Sequence[Any], *events: str) -> list[str]:
    """The names of the log's lines, in order, those of each single alert left out."""
    return [line["event"] for line in told if line["event"] != "alert" and (not events or line["event"] in events)]


def revisions(count: int, device: str = "bed-1", code: str = "mi") -> list[AlertEvent]:
    return [alert(number, State.UPDATED if number else State.RAISED, device, code) for number in range(count)]


def no_log(topic: str) -> str | None:
    return DENIED if topic.endswith("/alert") else None


async def test_alerts_leave_in_order_and_the_store_is_empty_then(box: Outbox) -> None:
    for event in revisions(30):
        await box.alert(event)
    await box.settled()
    assert box.broker.log_of("bed-1") == list(range(30))
    assert box.broker.conditions_of("bed-1")[-1] == 29
    assert (box.store.pending(), box.outgoing.pending, box.outgoing.problems()) == ([], 0, [])


async def test_what_an_earlier_process_left_is_sent_in_order_before_what_comes_now(tmp_path: Path) -> None:
    async with outbox_at(tmp_path / "alerts.sqlite", lambda box: put(box.store, *revisions(1500))) as box:
        assert box.outgoing.pending == 1501
        await box.alert(alert(1500, State.CLEARED))
        await box.settled()
        assert box.broker.log_of("bed-1") == list(range(1501))
        assert box.broker.conditions_of("bed-1") in ([1500], [1499, 1500])  # the older may be on its way already


async def test_open_conditions_are_told_again_though_nothing_else_happens(tmp_path: Path) -> None:
    async with outbox_at(tmp_path / "alerts.sqlite", lambda box: box.store.commit([alert(3)], [])) as box:
        await box.settled()
        await eventually(lambda: box.outgoing._wake._waiters, what="rest")
        box.outgoing.retell()
        await eventually(lambda: box.broker.conditions_of("bed-1") == [3], 2.0, "the condition")
        await box.settled()


async def test_what_the_broker_refuses_holds_up_nobody_else(box: Outbox, told: list[Any]) -> None:
    box.broker.refuses = no_log
    devices = [f"bed-{number}" for number in range(150)]
    await box.alert(*(alert(device=device) for device in devices))
    await eventually(lambda: len(box.broker.taken) == 150, what="the conditions of all")
    await box.alert(alert(device="late"))
    await eventually(lambda: box.broker.conditions_of("late"), what="one more condition")
    await eventually(lambda: box.outgoing.pending == 151 == box.store.pending_count(), what="the refused ones only")
    assert lines(told) == ["alerts_refused"]
    assert box.count("refused_alerts_total", topics="ecg/v1/+/alert", reason=DENIED) >= 151


async def test_a_refused_message_is_tried_less_and_less_often(
    box: Outbox, monkeypatch: pytest.MonkeyPatch
) -> None:  # fmt: skip
    monkeypatch.setattr("edge.daemon.lanes.REFUSED_MAX_S", 60.0)
    box.broker.refuses = no_log
    await box.alert(*revisions(100))
    await eventually(lambda: box.broker.asked >= 7, what="the sixth attempt")
    assert box.count("refused_alerts_total", topics="ecg/v1/+/alert", reason=DENIED) <= 8
    assert box.outgoing.settled  # nothing of it holds up a shutdown


async def test_a_refusal_that_is_over_is_told_and_all_that_waited_comes_in_order(box: Outbox, told: list[Any]) -> None:
    for time in (1, 2):
        box.broker.refuses = no_log
        await box.alert(*revisions(20), *revisions(20, "bed-2"))
        await eventually(lambda count=time: len(lines(told, "alerts_refused")) == count, what="the refusal")
        assert box.broker.log_of("bed-1") == list(range(20)) * (time - 1)
        box.broker.refuses = lambda topic: None
        await eventually(lambda: box.outgoing.pending == 0, what="the arrival of all")
        assert box.broker.log_of("bed-1") == box.broker.log_of("bed-2") == list(range(20)) * time
    assert lines(told) == ["alerts_refused", "alerts_refused_no_more"] * 2


async def test_of_a_refused_condition_only_the_newest_is_sent_at_last(box: Outbox) -> None:
    box.broker.refuses = lambda topic: DENIED if topic.endswith("/mi") else None
    for event in revisions(5):
        await box.alert(event)
        await eventually(lambda revision=event.revision: box.broker.log_of("bed-1") == list(range(revision + 1)))
    box.broker.refuses = lambda topic: None
    await eventually(lambda: box.outgoing.pending == 0, what="the arrival of all")
    assert box.broker.conditions_of("bed-1") in ([4], [3, 4])  # one of them may have been on its way


@pytest.mark.parametrize("seed", range(5))
async def test_each_log_comes_in_order_however_the_broker_refuses_and_drops_out(box: Outbox, seed: int) -> None:
    moods = random.Random(seed)
    box.broker.refuses = lambda topic: "Quota exceeded" if moods.random() < 0.3 else None
    box.broker.is_away = lambda: moods.random() < 0.02
    for number in range(15):
        await box.alert(*(alert(number, State.UPDATED, f"bed-{device}") for device in range(4)))
    await eventually(lambda: box.outgoing.pending == 0, 30.0, "the arrival of all")
    for device in range(4):
        assert box.broker.log_of(f"bed-{device}") == list(range(15))
        assert box.broker.conditions_of(f"bed-{device}")[-1] == 14


async def test_a_broker_that_is_back_just_when_it_is_to_be_tried_again_is_tried(box: Outbox) -> None:
    """The moment of the next attempt comes after the outbox has looked whether it is there, before it goes to rest."""
    box.broker.is_away = lambda: box.broker.asked < 3
    looked = box.outgoing._keep_store

    async def slowly() -> None:
        await looked()
        box.clock.ahead_s += 1.0

    box.outgoing._keep_store = slowly  # type: ignore[method-assign]
    await box.alert(alert())
    await box.settled()
    assert box.broker.log_of("bed-1") == [0]


async def test_a_message_that_is_not_answered_holds_up_only_its_topic(box: Outbox) -> None:
    box.broker.never_answered = "ecg/v1/bed-1/alert"
    await box.alert(*revisions(3), *revisions(3, "bed-2"))
    await eventually(lambda: box.broker.log_of("bed-2") == [0, 1, 2], what="the other's log")
    await eventually(lambda: box.broker.conditions_of("bed-1"), what="the condition")


async def test_alerts_that_wait_too_long_for_a_connected_broker_are_a_problem(box: Outbox) -> None:
    box.broker.refuses = no_log
    await box.alert(alert())
    await eventually(lambda: box.broker.conditions_of("bed-1"), what="the condition")
    assert box.outgoing.problems() == []
    box.clock.ahead_s = MAX_WAIT_S + 1
    (problem,) = box.outgoing.problems()
    assert problem.startswith("alerts have waited for 11 s: the broker refuses ecg/v1/+/alert: Not authorized")
    box.broker.state = ConnectionState.WAITING
    assert box.outgoing.problems() == []
    box.broker.state = ConnectionState.CONNECTED
    box.outgoing.retell()  # the time without a broker does not count
    assert box.outgoing.problems() == []


async def test_while_the_disk_refuses_alerts_are_published_from_memory(box: Outbox, told: list[Any]) -> None:
    await box.alert(alert(device="before"))
    with box.disk_that_refuses("insert"):
        for event in revisions(40):
            await box.alert(event)
        await eventually(lambda: box.outgoing.pending == 0, what="the arrival of all")
        assert box.outgoing.problems() != []
        assert "disk is full" in box.outgoing.problems()[0]
        assert not box.outgoing.settled  # the condition is still to be stored
    await box.settled()
    assert box.broker.log_of("bed-1") == list(range(40))
    assert box.broker.conditions_of("bed-1")[-1] == 39
    assert [event.revision for event in box.store.open_conditions("bed-1")] == [39]
    assert (box.store.pending(), box.outgoing.problems()) == ([], [])
    assert lines(told) == ["alerts_not_stored", "alerts_stored_again"]


async def test_what_was_stored_leaves_although_the_disk_refuses_and_before_what_is_not(box: Outbox) -> None:
    away = True
    box.broker.is_away = lambda: away
    await box.alert(*revisions(10))
    with box.disk_that_refuses("insert", "delete"):
        await box.alert(alert(10, State.CLEARED), alert(device="during"))
        away = False
        await eventually(lambda: box.outgoing.pending == 0, what="the arrival of all")
        assert box.broker.log_of("bed-1") == list(range(11))
        assert box.broker.conditions_of("bed-1")[-1] == 10
        assert box.broker.log_of("during") == [0]
    await box.settled()
    assert box.store.pending() == []


async def test_what_waited_in_memory_is_stored_as_soon_as_the_disk_allows(box: Outbox) -> None:
    box.broker.is_away = lambda: True
    with box.disk_that_refuses("insert"):
        await box.alert(*revisions(3))
        await box.alert(alert(3, State.CLEARED))
        assert box.store.pending() == []
    await eventually(lambda: box.store.pending_count() == 5, what="the storing")
    assert [decode(it.message.payload).revision for it in box.store.pending() if not it.message.retain] == [0, 1, 2, 3]
    assert box.store.open_conditions() == []
    box.broker.is_away = lambda: False
    await box.settled()
    assert box.broker.log_of("bed-1") == [0, 1, 2, 3]
    assert box.store.pending() == []


async def test_what_was_delivered_is_not_sent_again_while_the_disk_cannot_forget_it(
    box: Outbox, told: list[Any]
) -> None:
    box.broker.is_away = lambda: True
    await box.alert(*revisions(5), *revisions(5, "bed-2"))
    with box.disk_that_refuses("delete"):
        box.broker.is_away = lambda: False
        await eventually(lambda: box.outgoing.pending == 0, what="the arrival of all")
        asked = box.broker.asked
        await eventually(lambda: lines(told), what="the line of the log")
        await box.alert(*revisions(1, "bed-3", "cd"))
        await eventually(lambda: box.broker.log_of("bed-3"), what="another alert")
        assert box.broker.asked == asked + 2
        assert box.store.pending_count() > 0
    await box.settled()
    assert (box.store.pending(), box.broker.asked) == ([], asked + 2)
    assert lines(told) == ["alerts_not_stored", "alerts_stored_again"]


async def test_conditions_are_told_again_although_the_disk_refuses(box: Outbox) -> None:
    await box.alert(alert(), alert(device="bed-2"), alert(device="bed-3"))
    await box.settled()
    with box.disk_that_refuses("insert"):
        await box.alert(alert(1, State.UPDATED), alert(1, State.CLEARED, "bed-2"))
        await eventually(lambda: box.outgoing.pending == 0, what="the arrival of all")
        box.broker.taken.clear()
        box.outgoing.retell()
        await eventually(lambda: box.broker.conditions_of("bed-3"), what="a condition once more")
        await eventually(lambda: box.outgoing.pending == 0, what="the arrival of all")
        assert box.broker.conditions_of("bed-1") == [1]
        assert box.broker.conditions_of("bed-2") == []  # over, though the disk does not know
        assert [topic for topic, _, retain in box.broker.taken if not retain] == []


async def test_a_disk_that_refused_only_what_was_told_again_is_known_to_work_when_it_does(
    box: Outbox, told: list[Any]
) -> None:
    await box.alert(alert())
    await box.settled()
    with box.disk_that_refuses("insert"):
        box.outgoing.retell()
        await eventually(lambda: box.broker.conditions_of("bed-1") == [0, 0], what="the condition once more")
        assert box.outgoing.problems() != []
    await eventually(lambda: not box.outgoing.problems(), what="the end of the problem")
    assert lines(told) == ["alerts_not_stored", "alerts_stored_again"]


async def test_a_full_memory_drops_the_oldest_lines_of_the_log_counts_and_says_so(
    box: Outbox, told: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("edge.daemon.outgoing.MAX_UNSTORED_MESSAGES", 6)
    box.broker.is_away = lambda: True
    with box.disk_that_refuses("insert"):
        for event in revisions(10):
            await box.alert(event)
        assert box.outgoing.pending == 6
        box.broker.is_away = lambda: False
        await eventually(lambda: box.outgoing.pending == 0, what="the arrival of the rest")
    assert box.broker.log_of("bed-1")[-4:] == [6, 7, 8, 9]
    assert box.broker.conditions_of("bed-1")[-1] == 9
    assert box.count("dropped_alerts_total") == 5
    errors = [line["event"] for line in told if line["log_level"] == "error"]
    assert errors == ["alerts_not_stored", "alerts_dropped"]


async def test_what_a_full_store_drops_waits_no_more_and_is_counted(tmp_path: Path) -> None:
    async with outbox_at(tmp_path / "alerts.sqlite") as box:
        box.store._max_messages = 5
        box.broker.is_away = lambda: True
        for event in revisions(10):
            await box.alert(event)
        await eventually(lambda: box.outgoing.pending <= 6, what="the drop")  # one of them may be on its way
        assert box.count("dropped_alerts_total") == 6
        box.broker.is_away = lambda: False
        await box.settled()
        assert box.broker.log_of("bed-1")[-4:] == [6, 7, 8, 9]
        assert box.outgoing.pending == 0


@pytest.mark.parametrize("topic", [b"ecg/v1/bed-\xb1/alert", b"ecg/v1/bed-1/+lert", b"ecg/v1/bed-\x11/alert", b""])
async def test_a_damaged_message_is_set_aside_and_the_others_go_on(
    tmp_path: Path, told: list[Any], topic: bytes
) -> None:
    def damage(box: Outbox) -> None:
        put(box.store, alert(), alert(device="bed-2"))
        with closing(sqlite3.connect(box.path, isolation_level=None)) as database:
            database.execute("UPDATE message SET topic = CAST(? AS TEXT) WHERE topic = 'ecg/v1/bed-1/alert'", (topic,))

    async with outbox_at(tmp_path / "alerts.sqlite", damage) as box:
        await box.settled()
        assert (
            box.broker.conditions_of("bed-1") == box.broker.log_of("bed-2") == box.broker.conditions_of("bed-2") == [0]
        )
        assert box.broker.log_of("bed-1") == []
        assert box.count("unreadable_alerts") == 1
        assert box.outgoing.problems() == []
        assert lines(told) == ["stored_message_unreadable"]


async def test_a_message_damaged_while_it_waits_is_set_aside_too(
    box: Outbox, told: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    read = box.store.read

    def damaged(seqs: list[int]) -> Any:
        with closing(sqlite3.connect(box.path, isolation_level=None)) as database:
            database.execute("UPDATE message SET topic = CAST(x'65ff' AS TEXT) WHERE seq = 2")
        return read(seqs)

    monkeypatch.setattr(box.store, "read", damaged)
    await box.alert(*revisions(3))
    await box.settled()
    assert box.broker.log_of("bed-1") == [1, 2]
    assert box.count("unreadable_alerts") == 1
    assert lines(told) == ["stored_message_unreadable"]


async def test_while_nothing_can_be_read_what_is_new_and_cannot_be_stored_leaves_all_the_same(
    box: Outbox, told: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: object) -> None:
        raise StorageError("disk I/O error")

    with monkeypatch.context() as broken_disk:
        broken_disk.setattr(box.store, "read", broken)
        await box.alert(alert(device="before"))
        broken_disk.setattr(box.store, "commit", broken)
        await box.alert(alert(device="during"))
        await eventually(lambda: box.broker.log_of("during") == [0], what="the new alert")
        await eventually(lambda: len(lines(told)) == 2, what="both lines of the log")
        assert box.outgoing.problems() == ["disk I/O error"] * 2
    await box.settled()
    assert box.broker.log_of("before") == [0]
    assert sorted(lines(told)) == ["alerts_not_read", "alerts_not_stored", "alerts_read_again", "alerts_stored_again"]


async def test_a_disk_that_can_be_read_again_is_no_problem_though_nothing_needs_to_be(
    box: Outbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: object) -> None:
        raise StorageError("disk I/O error")

    with monkeypatch.context() as broken_disk:
        for step in ("read", "pending"):
            broken_disk.setattr(box.store, step, broken)
        await box.alert(alert())
        broken_disk.setattr(box.store, "commit", broken)
        await eventually(lambda: box.outgoing.problems(), what="what cannot be read")
        await box.alert(alert(1, State.UPDATED))  # takes the place of the condition that could not be read
        await eventually(lambda: box.broker.conditions_of("bed-1") == [1], what="the newer condition")
    await box.settled()
    await eventually(lambda: not box.outgoing.problems(), what="the end of the problem")


@contextmanager
def disk_that_hangs(box: Outbox, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Storing begins and does not end: the disk neither takes nor refuses anything, then answers after all."""
    answers, commit = threading.Event(), box.store.commit

    def hang(*arguments: Any) -> Any:
        answers.wait(20.0)
        return commit(*arguments)

    monkeypatch.setattr(box.disk, "_patience_s", 0.05)
    with monkeypatch.context() as hanging:
        hanging.setattr(box.store, "commit", hang)
        try:
            yield
        finally:
            answers.set()


async def test_while_the_disk_hangs_alerts_leave_from_memory_each_once_and_in_order(
    box: Outbox, told: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    with disk_that_hangs(box, monkeypatch):
        for event in revisions(3):
            await box.alert(event)
        await eventually(lambda: box.broker.log_of("bed-1") == [0, 1, 2], what="the alerts")
        assert box.outgoing.problems() == ["the disk has not answered for 0.05 s; check its health"]
        assert not box.outgoing.settled
    await box.settled()
    await eventually(lambda: not box.outgoing.problems(), what="the end of the problem")
    await eventually(lambda: box.store.open_conditions() == [revisions(3)[-1]], what="the stored condition")
    assert box.store.pending() == []
    assert box.broker.log_of("bed-1") == [0, 1, 2]
    assert lines(told) == ["alerts_not_stored", "alerts_stored_again"]


async def test_what_was_being_stored_when_the_disk_hung_goes_out_from_there_if_the_broker_is_away(
    box: Outbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    box.broker.is_away = lambda: True
    with disk_that_hangs(box, monkeypatch):
        await box.alert(*revisions(2))
        await box.alert(alert(2, State.CLEARED))
    await eventually(lambda: len(box.store.pending()) == 4, what="three lines of the log and the newest condition")
    assert box.store.open_conditions() == []
    box.broker.is_away = lambda: False
    await box.settled()
    assert box.broker.log_of("bed-1") == [0, 1, 2]
    assert box.broker.conditions_of("bed-1")[-1] == 2
    assert box.store.pending() == []


async def test_events_go_out_in_the_order_they_were_taken_in_whoever_waits_for_the_disk(box: Outbox) -> None:
    taken = [box.outgoing.take([event]) for event in revisions(20)]
    await asyncio.gather(*reversed(taken))
    await box.settled()
    assert box.broker.log_of("bed-1") == list(range(20))


async def test_a_defect_of_the_transport_ends_the_outbox_instead_of_hiding(tmp_path: Path) -> None:
    box = Outbox(tmp_path / "alerts.sqlite")
    box.broker.refuses = lambda topic: 1 / 0  # type: ignore[assignment, return-value]
    box.begin()
    await box.alert(alert())
    with pytest.raises(ZeroDivisionError):
        await box.task
    box.disk.close()
    box.store.close()


def test_every_event_is_two_messages_as_the_count_of_those_not_yet_offered_assumes() -> None:
    assert len(messages_of(alert())) == 2
