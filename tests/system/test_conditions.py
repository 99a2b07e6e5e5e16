"""Technical conditions: what is wrong with a signal or a stream is said, and said to be over."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing

import msgspec
import numpy as np
import pytest

from edge.alerts.events import AlertEvent, Reason
from edge.daemon.stores import ALERTS_NAME, SNAPSHOTS_NAME
from edge.stream.wire import INVALID_SAMPLE, Flags
from tests.daemon import until
from tests.ecg import Int16Array, chunks_of, patient
from tests.reference import assert_same_scores
from tests.system.conftest import OpenSite, Site

SECONDS = 30
READY_S = 10
FAULT = slice(1000, 1800)
"""Samples at 100 Hz; V3 is lead 8."""


def lead_off(samples: Int16Array) -> None:
    samples[FAULT, 8] = INVALID_SAMPLE


def flat_line(samples: Int16Array) -> None:
    samples[FAULT, 8] = 120


def saturation(samples: Int16Array) -> None:
    for begin in range(FAULT.start, FAULT.stop, 50):
        samples[begin : begin + 10, 8] = 3000


def noise(samples: Int16Array) -> None:
    samples[FAULT, 6:] += np.random.default_rng(0).normal(0, 300, (800, 6)).astype(np.int16)


def einthoven(samples: Int16Array) -> None:
    samples[FAULT, 0] *= -1


@pytest.mark.parametrize("fault", [lead_off, flat_line, saturation, noise, einthoven], ids=lambda f: f.__name__)
def test_a_faulty_signal_raises_its_condition_which_clears_when_it_is_well_again(
    site: Site, fault: Callable[[Int16Array], None]
) -> None:
    device, samples = f"with-{fault.__name__}", patient(SECONDS, seed=1)
    fault(samples)
    site.devices.send(device, chunks_of(samples))
    site.ward.await_scores(device, SECONDS)
    assert_one_life(site, device, fault.__name__, 1000, 1800 + 600)


def test_a_lead_that_the_device_says_is_off_is_off(site: Site) -> None:
    samples = patient(SECONDS, seed=2)
    marked = [
        msgspec.structs.replace(chunk, flags=Flags(lead_off=1 << 8)) if 10 <= chunk.number < 18 else chunk
        for chunk in chunks_of(samples)
    ]
    site.devices.send("electrode", marked)
    site.ward.await_scores("electrode", SECONDS)
    assert_one_life(site, "electrode", "lead_off", 1000, 2400)
    qualities = [score["quality"] for score in site.ward.scores("electrode")]
    assert max(qualities[10:18]) < 1.0 == min(qualities[:10])


def test_a_bridged_gap_is_told_and_costs_no_warming(open_site: OpenSite) -> None:
    site = open_site(streams={"reorder_wait_s": 0.1})
    chunks = chunks_of(patient(60))
    site.devices.send("bed", chunks[:12] + chunks[13:])
    site.ward.await_scores("bed", 60)
    assert [score["state"] for score in site.ward.scores("bed")[10:]] == ["ready"] * 50
    assert_one_life(site, "bed", "gap", 1200, 5000)


def test_a_stream_of_two_leads_is_unfit_and_disturbs_nobody(site: Site) -> None:
    samples = patient(12, seed=3)
    two = chunks_of(samples[:, [1, 6]], leads=("II", "V1"))
    for pair, chunk in zip(two, chunks_of(samples), strict=True):
        site.devices.send("holter", [pair], wait=False)
        site.devices.send("beside-holter", [chunk], wait=False)
    assert_same_scores(site.ward.await_scores("beside-holter", 12), samples)
    raised = site.ward.await_alert("holter", "unfit_leads", "raised")
    assert (raised.kind, raised.class_name) == ("technical", None)
    site.devices.send("holter", chunks_of(samples, session="s2"))  # all leads are on now
    assert site.ward.await_alert("holter", "unfit_leads", "cleared").id == raised.id
    assert_same_scores(site.ward.await_scores("holter", 12), samples)


def test_a_stream_that_falls_silent_is_missed_and_welcomed_back(open_site: OpenSite) -> None:
    site = open_site(streams={"silent_after_s": 0.5})
    samples = patient(14, seed=4)
    samples[800:, 8] = INVALID_SAMPLE
    chunks = chunks_of(samples)
    site.devices.send("bed", chunks[:12])
    raised = site.ward.await_alert("bed", "stream_silent", "raised")
    assert raised.at.i == 1199
    assert site.ward.await_alert("bed", "lead_off", "cleared").reason is Reason.NO_SIGNAL
    site.devices.send("bed", chunks[12:])
    assert site.ward.await_alert("bed", "stream_silent", "cleared").id == raised.id


def test_a_stream_given_up_ends_its_conditions(open_site: OpenSite) -> None:
    site = open_site(streams={"silent_after_s": 0.3, "evict_after_s": 1.0})
    site.devices.send("bed", chunks_of(patient(2)))
    until(lambda: _snapshots(site) == ["bed"], "a snapshot")
    raised = site.ward.await_alert("bed", "stream_silent", "raised")
    cleared = site.ward.await_alert("bed", "stream_silent", "cleared")
    assert (cleared.id, cleared.reason) == (raised.id, Reason.EVICTED)
    until(lambda: _snapshots(site) == [], "the snapshot's removal")


def _snapshots(site: Site) -> list[str]:
    with closing(sqlite3.connect(site.daemon.directory / "state" / SNAPSHOTS_NAME)) as database:
        return [device for (device,) in database.execute("SELECT device FROM snapshot")]


def test_conditions_of_one_session_are_not_carried_into_the_next(open_site: OpenSite, alarms: dict[str, str]) -> None:
    site = open_site(model=alarms)
    samples = patient(12, seed=5)
    site.devices.send("bed", [*chunks_of(samples), *chunks_of(samples, session="s2")])
    site.ward.await_scores("bed", 24)
    until(lambda: len(site.ward.alerts("bed", "mi")) >= 3, "the condition of the second session")
    first, ended, second = site.ward.alerts("bed", "mi")
    assert [(event.session, event.state.value) for event in (first, ended, second)] == [
        ("s1", "raised"), ("s1", "cleared"), ("s2", "raised"),
    ]  # fmt: skip
    assert first.id == ended.id != second.id
    assert [score["s"] for score in site.ward.scores("bed")] == ["s1"] * 12 + ["s2"] * 12


def assert_one_life(site: Site, device: str, code: str, not_before: int, not_after: int) -> None:
    """Raised and cleared once, under one id, between two samples."""
    site.ward.await_alert(device, code, "cleared")
    events = site.ward.alerts(device, code)
    indices = list(_in_order(events))
    assert [events[0].state.value, events[-1].state.value] == ["raised", "cleared"]
    assert len({event.id for event in events}) == 1
    assert not_before <= indices[0] <= indices[-1] <= not_after


def _in_order(events: list[AlertEvent]) -> Iterator[int]:
    assert events, "no such condition"
    for revision, event in enumerate(events):
        assert event.revision == revision
        yield event.at.i


def test_while_the_disk_takes_its_time_with_an_alert_other_streams_are_scored(open_site: OpenSite) -> None:
    site = open_site()
    bad = patient(SECONDS, seed=4)
    flat_line(bad)
    with closing(sqlite3.connect(site.daemon.directory / "state" / ALERTS_NAME)) as another:
        another.execute("BEGIN IMMEDIATE")
        site.devices.send("bad", chunks_of(bad))
        until(lambda: site.daemon.metric("alerts_total", code="flat_line", state="raised"), "the flat line")
        site.devices.send("well", chunks_of(patient(READY_S - 1, seed=5)))
        site.ward.await_scores("well", READY_S - 1)
        assert not [line for line in site.daemon.log if line["event"] == "alerts_not_stored"]
        assert not site.ward.alerts("bad")
    site.ward.await_scores("bad", SECONDS)
    assert_one_life(site, "bad", "flat_line", 1000, 1800 + 600)
