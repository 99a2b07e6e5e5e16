"""Brokers and daemons die and come back: streams go on, and no alert is lost or told under two names."""

from __future__ import annotations

import sqlite3
from collections.abc import Collection
from pathlib import Path
from typing import Any

import msgspec
import pytest

from edge.alerts.events import AlertEvent, State
from edge.daemon.snapshots import Snapshot, unsealed
from edge.runtime.bundle import load_bundle
from edge.runtime.select import open_runtime
from tests.daemon import Daemon, until
from tests.ecg import chunks_of, patient
from tests.reference import assert_same_scores
from tests.system.conftest import OpenSite
from tests.tiny_bundle import tiny_bundle
from tests.ward import Ward

CODES = {"mi", "sttc", "cd", "hyp"}
READY_S = 10
NEVER_ON = {name: {"on": 1.0, "off": 1.0, "dwell_s": 1.0} for name in ("MI", "STTC", "CD", "HYP")}
"""Settings under which every class condition clears."""


def test_when_the_broker_is_killed_scores_go_on_without_warming_and_every_alert_arrives(
    open_site: OpenSite, alarms: dict[str, Any]
) -> None:
    site = open_site(model=alarms, streams={"silent_after_s": 1.0}, alerts={"update_every_s": 1.0})
    samples = patient(24, seed=1)
    chunks = chunks_of(samples)
    site.devices.send("bed", chunks[:12])
    site.ward.await_scores("bed", 12)
    raised = site.ward.await_alert("bed", "stream_silent", "raised")
    _await_database(site.broker._directory / "mosquitto.db")
    site.broker.kill()
    until(lambda: site.daemon.health()[0] == 503, "the daemon's notice of the loss")
    told = _silences_told(site.daemon)
    until(lambda: _silences_told(site.daemon) > told + 1, "what is told of the silence while the broker is away")
    site.devices.send("bed", chunks[12:18], wait=False)
    site.broker.start()
    site.devices.send("bed", chunks[18:])
    assert_same_scores(site.ward.await_scores("bed", 24), samples)
    ended = site.ward.await_alert("bed", "stream_silent", "cleared")
    assert ended.id == raised.id
    assert ended.revision > told + 1
    for code in CODES:
        site.ward.await_alert("bed", code, "raised")
    _assert_each_condition_has_one_life(site.ward, "bed")


def test_a_broker_that_lost_its_memory_is_told_the_open_conditions_again(
    open_site: OpenSite, alarms: dict[str, Any]
) -> None:
    site = open_site(model=alarms)
    site.devices.send("bed", chunks_of(patient(READY_S)))
    before = site.ward.await_alert("bed", "mi", "raised")
    site.broker.kill()
    (site.broker._directory / "mosquitto.db").unlink(missing_ok=True)
    told = len(site.ward.payloads("ecg/v1/bed/alert/mi"))
    site.broker.start()
    until(lambda: len(site.ward.payloads("ecg/v1/bed/alert/mi")) > told, "the condition once more")
    assert site.ward.condition("bed", "mi") == before


@pytest.mark.parametrize("moment", ["while the alerts go out", "right after the samples were sent"])
def test_a_daemon_killed_around_an_alert_tells_each_condition_under_one_id(
    open_site: OpenSite, alarms: dict[str, Any], moment: str
) -> None:
    site = open_site(model=alarms)
    chunks = chunks_of(patient(40, seed=2))
    site.devices.send("bed", chunks[: READY_S - 1])
    site.ward.await_scores("bed", READY_S - 1)
    site.devices.send("bed", chunks[READY_S - 1 : READY_S])
    if moment == "while the alerts go out":
        until(lambda: site.ward.alerts("bed"), "the first alert")
    site.daemon.kill()
    site.devices.send("bed", chunks[READY_S : READY_S + 2])
    site.daemon.start()
    site.devices.send("bed", chunks[READY_S + 2 : 26])
    for code in CODES:
        site.ward.await_alert("bed", code, "raised")
    site.daemon.configure(alerts={"classes": NEVER_ON})
    site.daemon.reload()
    site.devices.send("bed", chunks[26:])
    for code in CODES:
        site.ward.await_alert("bed", code, "cleared")
    _assert_each_condition_has_one_life(site.ward, "bed", ended=CODES)


def test_a_killed_daemon_goes_on_without_warming_when_the_gap_allows_it(open_site: OpenSite) -> None:
    site = open_site()
    samples = patient(20, seed=5)
    chunks = chunks_of(samples)
    site.devices.send("bed", chunks[:12])
    _await_snapshot(site.daemon, "bed", 1200)
    site.devices.send("bed", chunks[12:13])  # in the snapshot or not: at most one second is missing
    site.ward.await_scores("bed", 13)
    site.daemon.kill()
    site.devices.send("bed", chunks[13:16])
    site.daemon.start()
    site.devices.send("bed", chunks[16:])
    until(lambda: site.ward.scores("bed") and site.ward.scores("bed")[-1]["i"] == 1999, "the last score")
    after = [score for score in site.ward.scores("bed") if score["i"] >= 1300]
    assert [score["i"] for score in after] == [1399, 1499, 1599, 1699, 1799, 1899, 1999]
    assert {score["state"] for score in after} == {"ready"}
    assert site.daemon.metric("gaps_total", outcome="lost") == 0


def test_a_killed_daemon_warms_up_again_behind_a_long_gap(open_site: OpenSite) -> None:
    site = open_site(streams={"reorder_wait_s": 0.2})
    samples = patient(34, seed=6)
    chunks = chunks_of(samples)
    site.devices.send("bed", chunks[:12])
    _await_snapshot(site.daemon, "bed", 1200)
    site.daemon.kill()
    site.daemon.start()
    site.devices.send("bed", chunks[18:])
    site.ward.await_scores("bed", 12 + 16)
    states = [score["state"] for score in site.ward.scores("bed")[12:]]
    assert states == ["warming"] * (READY_S - 1) + ["ready"] * 7
    until(lambda: site.daemon.metric("gaps_total", outcome="lost") == 1, "the next poll, which counts")
    assert site.ward.await_alert("bed", "gap", "raised").at.i == 1899


def test_a_daemon_told_to_stop_mid_stream_loses_nothing(open_site: OpenSite) -> None:
    site = open_site()
    samples = patient(24, 500, seed=7)
    chunks = chunks_of(samples, 500, (211, 90, 333))
    half = len(chunks) // 2
    site.devices.send("bed", chunks[:half])
    site.devices.send("bed", chunks[half + 1 : half + 3])  # these wait for the one before them
    site.devices.send("bed", chunks[half + 3 : half + 8], wait=False)
    assert site.daemon.stop() == 0
    site.devices.send("bed", [chunks[half], *chunks[half + 8 : half + 12]])
    site.daemon.start()
    site.devices.send("bed", chunks[half + 12 :])
    assert_same_scores(site.ward.await_scores("bed", 24), samples, 500)


@pytest.mark.parametrize("vote_hops", [None, 2])
def test_a_daemon_stopped_again_and_again_scores_as_if_it_never_was(
    open_site: OpenSite, tmp_path: Path, vote_hops: int | None
) -> None:
    bundle = load_bundle() if vote_hops is None else tiny_bundle(tmp_path / "votes", vote_hops=vote_hops)
    site = open_site(model={"bundle": str(bundle.path)})
    samples = patient(30, seed=8)
    chunks = chunks_of(samples, sizes=(37, 64))
    for part in range(3):
        site.devices.send("bed", chunks[part * 20 : (part + 1) * 20], wait=part == 2)
        if part < 2:
            assert site.daemon.stop() == 0
            site.daemon.start()
    assert_same_scores(site.ward.await_scores("bed", 30), samples, runtime=open_runtime(bundle))


def test_a_stream_younger_than_a_hop_is_remembered_too(open_site: OpenSite) -> None:
    site = open_site()
    samples = patient(12, seed=9)
    chunks = chunks_of(samples, sizes=35)
    for number in range(3):
        site.devices.send("bed", [chunks[number]])
        _await_snapshot(site.daemon, "bed", 35 * (number + 1))
        assert site.daemon.stop() == 0
        site.daemon.start()
    site.devices.send("bed", chunks[3:])
    assert_same_scores(site.ward.await_scores("bed", 12), samples)


def test_alerts_decided_without_a_broker_survive_the_daemon_too(open_site: OpenSite, alarms: dict[str, Any]) -> None:
    site = open_site(model=alarms, streams={"silent_after_s": 1.0}, alerts={"update_every_s": 1.0})
    site.devices.send("bed", chunks_of(patient(READY_S)))
    site.ward.await_alert("bed", "mi", "raised")
    site.ward.await_alert("bed", "stream_silent", "raised")
    _await_database(site.broker._directory / "mosquitto.db")
    site.broker.stop()
    told = _silences_told(site.daemon)
    until(lambda: _silences_told(site.daemon) > told + 1, "what is told of the silence while the broker is away")
    told = _silences_told(site.daemon)
    site.daemon.kill()
    site.broker.start()
    site.daemon.start()
    until(lambda: site.ward.alerts("bed", "stream_silent")[-1].revision >= told, "what was decided without a broker")
    _assert_each_condition_has_one_life(site.ward, "bed")


def test_a_lower_limit_of_streams_does_not_keep_a_daemon_from_starting(
    open_site: OpenSite, alarms: dict[str, Any]
) -> None:
    site = open_site(model=alarms)
    for device in ("bed-1", "bed-2", "bed-3"):
        site.devices.send(device, chunks_of(patient(READY_S)))
    for device in ("bed-1", "bed-2", "bed-3"):
        site.ward.await_alert(device, "mi", "raised")
        _await_snapshot(site.daemon, device, 1000)
    assert site.daemon.stop() == 0
    site.daemon.configure(streams={"max_streams": 1})
    site.daemon.start()
    until(lambda: site.daemon.metric("streams") == 1, "the next look")
    for device in ("bed-2", "bed-3"):
        assert site.ward.await_alert(device, "mi", "cleared").reason == "evicted"


def _silences_told(daemon: Daemon) -> int:
    """How often it was told that a silence lasts."""
    return round(daemon.metric("alerts_total", code="stream_silent", state="updated"))


def _assert_each_condition_has_one_life(ward: Ward, device: str, ended: Collection[str] = ()) -> None:
    """Every condition was raised once, under one id, and its events, repeats apart, are without a hole."""
    lives: dict[str, list[AlertEvent]] = {}
    for event in ward.alerts(device):
        lives.setdefault(event.id, []).append(event)
    for events in lives.values():
        assert sorted({event.revision for event in events}) == list(range(len({event.revision for event in events})))
        assert {event.state for event in events if event.revision == 0} == {State.RAISED}
    for code in CODES:
        ids = {event.id for event in ward.alerts(device, code)}
        assert len(ids) == 1, f"{code} has {len(ids)} ids"
        until(lambda code=code: _is_over(ward.condition(device, code)) is (code in ended), f"the condition of {code}")


def _is_over(condition: AlertEvent | None) -> bool | None:
    return None if condition is None else condition.state is State.CLEARED


def _await_snapshot(daemon: Daemon, device: str, expected: int) -> None:
    """Wait until the daemon has saved a stream up to a sample."""

    def is_saved() -> bool:
        with sqlite3.connect(daemon.directory / "state" / "snapshots.sqlite") as database:
            rows = database.execute("SELECT state FROM snapshot WHERE device = ?", (device,)).fetchall()
        database.close()
        return any(msgspec.msgpack.decode(unsealed(state), type=Snapshot).expected == expected for (state,) in rows)

    until(is_saved, f"a snapshot of {device} at {expected}")


def _await_database(path: Path) -> None:
    """Wait until the broker has written its sessions after now."""
    before = path.stat().st_mtime_ns if path.exists() else 0
    until(lambda: path.exists() and path.stat().st_mtime_ns > before, "the broker's database")
