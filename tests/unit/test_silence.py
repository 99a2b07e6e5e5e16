"""Silence: told of devices that could have sent and did not, and not of a monitor that did not listen."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from itertools import pairwise

import msgspec
import pytest

from edge.alerts.events import AlertEvent, Point, Priority, Reason, State
from edge.daemon import streams as polling
from edge.daemon.alert_settings import alert_policy
from edge.daemon.config import AlertsConfig, StreamsConfig
from edge.daemon.metrics import Metrics
from edge.daemon.registry import Registry
from edge.daemon.snapshots import Snapshot
from edge.daemon.streams import POLL_S, StreamFactory, StreamKeeper
from edge.runtime.bundle import load_bundle
from edge.signal.leads import STANDARD_LEADS
from edge.stream.wire import Chunk
from tests.ecg import chunks_of, patient
from tests.unit.test_intake import StillClock

MANIFEST = load_bundle().manifest
SECONDS = chunks_of(patient(60, seed=40))
SILENT_AFTER_S = 5.0


class WallClock(StillClock):
    """One that tells the time of day, too."""

    def utc_ns(self) -> int:
        return 10**18 + round(self.now_s * 1e9)


class Watch:
    """Streams that are looked at on a clock of the test's, and what was told of them."""

    def __init__(self, conditions: Sequence[AlertEvent] = ()) -> None:
        self.clock, self.events = WallClock(), []
        config = StreamsConfig(silent_after_s=SILENT_AFTER_S)
        self.factory = StreamFactory(config, MANIFEST, "node", "r", alert_policy(AlertsConfig(), MANIFEST))
        self.factory.remember(list(conditions))
        self.registry = Registry(1000, SILENT_AFTER_S, self.factory.make)
        nothing = None  # neither model nor disk is asked for anything here
        self.keeper = StreamKeeper(
            self.registry, self.factory, nothing, nothing, nothing, self, self.clock, Metrics()
        )  # fmt: skip

        self.keeper.note_connection(True)

    def take(self, events: Sequence[AlertEvent]) -> None:
        self.events += events

    def send(self, device: str, chunk: Chunk) -> None:
        stream, _ = self.registry.find_or_add(device, self.clock.now_s)
        stream.receive(chunk, self.clock.now_s)
        stream.waiting.clear()

    def run(self, seconds: float, monkeypatch: pytest.MonkeyPatch, each_second: Callable[[int], None] = int) -> None:
        """Look as the daemon does, for so long; `each_second` is told which."""
        end_s = self.clock.now_s + seconds

        async def sleep(poll_s: float) -> None:
            before_s, self.clock.now_s = self.clock.now_s, self.clock.now_s + poll_s
            if before_s >= end_s:
                raise asyncio.CancelledError
            if int(self.clock.now_s) > int(before_s):
                each_second(int(self.clock.now_s))

        monkeypatch.setattr(polling.asyncio, "sleep", sleep)
        with pytest.raises(asyncio.CancelledError):
            asyncio.run(self.keeper.run(lambda: None))

    def told(self, code: str = "stream_silent") -> list[State]:
        return [event.state for event in self.events if event.code == code]


def test_a_device_that_stops_is_silent_until_it_goes_on(monkeypatch):
    watch = Watch()
    watch.run(30, monkeypatch, lambda second: watch.send("bed", SECONDS[second]) if not 10 < second < 20 else None)
    assert watch.told() == [State.RAISED, State.CLEARED]


@pytest.mark.parametrize("stall_s", [1.0, 7.0, 60.0])
def test_a_monitor_that_stood_still_does_not_call_its_devices_silent(monkeypatch, stall_s):
    watch = Watch()
    beds = [f"bed-{k}" for k in range(20)]

    def all_send(second: int) -> None:
        if second == 11:
            watch.clock.now_s += stall_s
        elif second != 12:  # what came meanwhile is read a second later
            for bed in beds:
                watch.send(bed, SECONDS[int(watch.clock.now_s) % 60])

    watch.run(30, monkeypatch, all_send)
    assert watch.events == []


@pytest.mark.parametrize("hiccup_s", [0.3, 1.0])
def test_short_hiccups_however_many_hide_no_silence(monkeypatch, hiccup_s):
    watch = Watch()
    watch.send("bed", SECONDS[0])

    def hiccup(second: int) -> None:
        if second % 4 == 0:
            watch.clock.now_s += hiccup_s

    watch.run(30, monkeypatch, hiccup)
    assert watch.told()[0] is State.RAISED


def test_a_device_that_was_silent_before_the_monitor_stood_still_goes_on_being_it(monkeypatch):
    watch = Watch()
    watch.send("bed", SECONDS[0])

    def stall(second: int) -> None:
        if second == 20:
            watch.clock.now_s += 10.0

    watch.run(50, monkeypatch, stall)
    assert watch.told()[0] is State.RAISED
    assert State.CLEARED not in watch.told()


def test_a_device_of_long_chunks_is_silent_when_it_could_have_sent_two(monkeypatch):
    watch = Watch()
    long = chunks_of(patient(60, seed=41), sizes=600)

    def send(second: int) -> None:
        if second % 6 == 0 and second < 60:
            watch.send("bed", long[second // 6])

    watch.run(64, monkeypatch, send)
    assert watch.events == []
    watch.run(6, monkeypatch)
    assert watch.told() == [State.RAISED]


def test_a_monitor_that_no_longer_listens_tells_of_no_silence(monkeypatch):
    watch = Watch()
    watch.send("bed", SECONDS[0])
    watch.keeper.listening = False
    watch.run(20, monkeypatch)
    assert watch.events == []


@pytest.mark.parametrize("away", [range(11, 26), range(16)], ids=["an-outage", "a-broker-that-starts-late"])
def test_while_no_broker_is_there_no_device_is_silent_but_one_that_does_not_come_back_is(monkeypatch, away):
    watch = Watch()
    watch.keeper.note_connection(0 not in away)
    beds = [f"bed-{k}" for k in range(20)]

    def send(second: int) -> None:
        if second == away[0]:
            watch.keeper.note_connection(False)
        if second == away[-1]:
            watch.keeper.note_connection(True)
        if second not in away:
            for bed in beds if second < 11 else beds[1:]:
                watch.send(bed, SECONDS[second])

    watch.run(29, monkeypatch, send)
    assert watch.events == []
    watch.run(10, monkeypatch, send)
    assert [event.device for event in watch.events] == ([] if away[0] == 0 else ["bed-0"])


def open_alert(session: str) -> AlertEvent:
    """MI, raised in a session of bed's."""
    at = Point(999, 1)
    return AlertEvent(
        id="c1", revision=0, device="bed", session=session, kind="class", class_name="MI", code="mi",
        state=State.RAISED, priority=Priority.HIGH, probability=0.9, onset=at, at=at, node="node", expires=1,
    )  # fmt: skip


def test_an_alert_of_one_patient_ends_though_the_next_ones_leads_cannot_be_scored(monkeypatch):
    watch = Watch([open_alert("before")])
    few = chunks_of(patient(30, seed=42)[:, :11], session="now", leads=STANDARD_LEADS[:11])
    watch.run(5, monkeypatch, lambda second: watch.send("bed", few[second]))
    last = [event for event in watch.events if event.code == "mi"][-1]
    assert (last.state, last.reason, last.session) == (State.CLEARED, Reason.SESSION_ENDED, "before")
    assert watch.told("unfit_leads") == [State.RAISED]


def test_after_a_restart_an_alert_of_a_session_newer_than_the_snapshot_is_not_taken_for_another_patients(monkeypatch):
    watch = Watch([open_alert("newer")])
    kept = msgspec.structs.replace(snapshot_of("bed", MANIFEST.model_hash), saved_at_ns=1)
    assert asyncio.run(watch.keeper.restore([kept], MANIFEST.model_hash)) == 1
    watch.run(10, monkeypatch)
    assert {event.state for event in watch.events if event.code == "mi"} == {State.UPDATED}


def test_an_alert_of_a_device_that_fell_silent_stays_open_and_does_not_expire(monkeypatch):
    watch = Watch([open_alert(SECONDS[0].session)])
    watch.send("bed", SECONDS[0])
    watch.run(100, monkeypatch)
    told = [event for event in watch.events if event.code == "mi"]
    assert {(event.state, event.reason, event.probability) for event in told} == {(State.UPDATED, Reason.FROZEN, 0.9)}
    assert [event.revision for event in told] == list(range(1, len(told) + 1))
    assert 3 <= len(told) <= 5
    assert all(later.expires - earlier.expires > 29e9 for earlier, later in pairwise(told))


def snapshot_of(device: str, model_hash: str) -> Snapshot:
    watch = Watch()
    for chunk in SECONDS[:12]:
        watch.send(device, chunk)
    snapshot = watch.registry.get(device).snapshot(model_hash, now_ns=1)
    assert snapshot is not None
    return snapshot


def test_a_device_of_long_chunks_is_not_silent_right_after_a_restart(monkeypatch):
    before = Watch()
    before.send("bed", chunks_of(patient(60, seed=41), sizes=1000)[0])
    snapshot = before.registry.get("bed").snapshot(MANIFEST.model_hash, now_ns=1)
    after = Watch()
    assert asyncio.run(after.keeper.restore([snapshot], MANIFEST.model_hash)) == 1
    after.run(18, monkeypatch)
    assert after.events == []
    after.run(6, monkeypatch)
    assert after.told() == [State.RAISED]


def test_a_device_that_does_not_come_back_after_the_model_was_changed_is_silent(monkeypatch):
    watch = Watch()
    kept = [snapshot_of("bed-1", "another"), snapshot_of("bed-2", MANIFEST.model_hash)]
    assert asyncio.run(watch.keeper.restore(kept, MANIFEST.model_hash)) == 1
    watch.run(10, monkeypatch)
    first, second = watch.events
    assert {first.device, second.device} == {"bed-1", "bed-2"}
    assert first.code == second.code == "stream_silent"
    assert first.at == second.at
    assert first.at.i == 1199


def test_a_silence_from_before_a_restart_is_told_on_though_nothing_else_is_known(monkeypatch):
    before = Watch()
    before.send("bed", SECONDS[0])
    before.run(10, monkeypatch)
    (raised,) = before.events
    after = Watch([raised])
    asyncio.run(after.keeper.restore([], MANIFEST.model_hash))
    after.run(100, monkeypatch)
    assert set(after.told()) == {State.UPDATED}
    assert {event.id for event in after.events} == {raised.id}
    assert len(after.events) >= 2
    after.send("bed", SECONDS[0])
    after.run(2, monkeypatch)
    assert after.told()[-1] is State.CLEARED


def test_leads_that_were_unfit_before_a_restart_are_until_others_come(monkeypatch):
    before = Watch()
    before.send("bed", msgspec.structs.replace(SECONDS[0], leads=("I", "II"), samples=SECONDS[0].samples[:, :2]))
    before.run(2, monkeypatch)
    (raised,) = before.events
    assert raised.code == "unfit_leads"
    after = Watch([raised])
    asyncio.run(after.keeper.restore([], MANIFEST.model_hash))
    after.run(4, monkeypatch)
    assert State.CLEARED not in after.told("unfit_leads")
    after.send("bed", SECONDS[0])
    after.run(2, monkeypatch)
    assert after.told("unfit_leads")[-1] is State.CLEARED


def test_changed_settings_hold_for_the_technical_conditions_of_known_streams(monkeypatch):
    watch = Watch()
    watch.send("bed", SECONDS[0])
    watch.run(10, monkeypatch)
    watch.factory.policy = alert_policy(AlertsConfig(update_every_s=1.0, expires_s=3.0), MANIFEST)
    for stream in watch.registry:
        watch.factory.adjust(stream)
    watch.run(5, monkeypatch)
    assert len(watch.told()) >= 4
    assert 0 < watch.events[-1].expires - watch.clock.utc_ns() <= 3_000_000_000
    assert POLL_S < 1.0
