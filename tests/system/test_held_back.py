"""What holds alerts back, a broker that refuses some or a full disk: the others leave, and health says so."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

from edge.daemon.outgoing import MAX_WAIT_S
from edge.daemon.stores import ALERTS_NAME
from edge.stream.wire import Chunk
from tests.daemon import until
from tests.ecg import chunks_of, patient
from tests.system.conftest import OpenSite

EVERYTHING_BUT_THE_LOG = [
    "topic readwrite ecg/v1/+/wave",
    "topic readwrite ecg/v1/+/score",
    "topic readwrite ecg/v1/+/alert/+",
    "topic readwrite ecg/v1/edge/#",
    "topic readwrite ecg/v1/dead/+",
]
THE_LOG = "topic readwrite ecg/v1/+/alert"


def two_leads() -> list[Chunk]:
    """A stream that raises unfit_leads at once."""
    return chunks_of(patient(1, seed=3)[:, [1, 6]], leads=("II", "V1"))


@contextmanager
def full_disk(state_dir: Path) -> Iterator[None]:
    """Nothing can be written to the daemon's alert store."""
    with closing(sqlite3.connect(state_dir / ALERTS_NAME, timeout=20.0, isolation_level=None)) as another:
        for operation in ("INSERT", "DELETE"):
            refuse = "BEGIN SELECT RAISE(ABORT, 'disk is full'); END"
            another.execute(f"CREATE TRIGGER no_{operation} BEFORE {operation} ON message {refuse}")
        yield
        for operation in ("INSERT", "DELETE"):
            another.execute(f"DROP TRIGGER no_{operation}")


def test_alerts_that_the_broker_refuses_hold_up_nobody_else_and_arrive_when_it_permits_them(
    open_site: OpenSite,
) -> None:
    site = open_site(rules=EVERYTHING_BUT_THE_LOG, streams={"silent_after_s": 3600.0, "evict_after_s": 7200.0})
    devices = [f"bed-{number}" for number in range(130)]
    for device in devices:
        site.devices.send(device, two_leads(), wait=False)
    until(lambda: all(site.ward.condition(device, "unfit_leads") for device in devices), "everybody's condition")
    assert not any(site.ward.alerts(device) for device in devices)
    until(lambda: site.daemon.health()[0] == 503, "the health's notice", MAX_WAIT_S + 20)
    (problem,) = site.daemon.health()[1]["problems"]
    assert "the broker refuses ecg/v1/+/alert: Not authorized" in problem
    until(lambda: site.ward.healths()[-1]["problems"], "the health topic's notice")
    assert len(site.daemon.events("alerts_refused")) == 1
    refused = site.daemon.metric("refused_alerts_total", topics="ecg/v1/+/alert", reason="Not authorized")
    assert len(devices) <= refused < 10 * len(devices)
    site.broker.permit([*EVERYTHING_BUT_THE_LOG, THE_LOG])
    assert site.daemon.stop() == 0
    site.daemon.start()
    until(lambda: all(site.ward.alerts(device) for device in devices), "everybody's log")
    until(lambda: site.daemon.health()[1]["outbox_pending"] == 0, "the end of the waiting")
    assert site.daemon.is_healthy()


def test_with_a_full_disk_alerts_leave_all_the_same_and_health_says_what_is_wrong(open_site: OpenSite) -> None:
    site = open_site()
    site.devices.send("before", two_leads())
    site.ward.await_alert("before", "unfit_leads", "raised")
    with full_disk(site.daemon.directory / "state"):
        site.devices.send("during", two_leads())
        raised = site.ward.await_alert("during", "unfit_leads", "raised")
        until(lambda: site.ward.condition("during", "unfit_leads") == raised, "the condition")
        status, picture = site.daemon.health()
        assert (status, picture["outbox_pending"]) == (503, 0)
        assert "disk is full" in picture["problems"][0]
    until(site.daemon.is_healthy, "health")
    assert [line["event"] for line in site.daemon.events("alerts_not_stored", "alerts_stored_again")] == [
        "alerts_not_stored", "alerts_stored_again",
    ]  # fmt: skip
    site.devices.send("after", two_leads())
    site.ward.await_alert("after", "unfit_leads", "raised")
    told = [event for device in ("before", "during", "after") for event in site.ward.alerts(device, "unfit_leads")]
    assert [event.state.value for event in told] == ["raised"] * 3  # and nothing twice


def test_what_waited_for_the_broker_leaves_although_the_disk_is_full_by_then(open_site: OpenSite) -> None:
    site = open_site(alerts={"update_every_s": 1.0})
    site.devices.send("bed", two_leads())
    site.ward.await_alert("bed", "unfit_leads", "raised")
    site.broker.stop()
    until(lambda: site.daemon.metric("alerts_total", code="unfit_leads", state="updated") >= 3, "more while away")
    with full_disk(site.daemon.directory / "state"):
        site.broker.start()
        until(lambda: site.ward.alerts("bed", "unfit_leads")[-1].revision >= 3, "what was told while away")
        until(lambda: site.daemon.health()[1]["outbox_pending"] == 0, "the end of the waiting")
        until(lambda: site.daemon.health()[0] == 503, "the health's notice")
    until(site.daemon.is_healthy, "health")
    revisions = [event.revision for event in site.ward.alerts("bed", "unfit_leads")]
    assert revisions == list(range(len(revisions)))
