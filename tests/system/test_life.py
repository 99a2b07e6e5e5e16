"""The daemon's own life: what it says of itself, and what signals do to it."""

from __future__ import annotations

import json
import signal
from typing import Any

from tests.daemon import NODE, until
from tests.ecg import chunks_of, patient
from tests.reference import assert_same_scores, shipped_runtime
from tests.system.conftest import OpenSite
from tests.ward import ward_on


def test_the_status_topic_tells_of_start_death_return_and_stop(open_site: OpenSite) -> None:
    site = open_site()
    until(lambda: site.ward.statuses() == ["online"], "the birth")
    site.daemon.kill()
    until(lambda: site.ward.statuses() == ["online", "offline"], "the will")
    site.daemon.start()
    until(lambda: site.ward.statuses()[-1] == "online", "the second birth")
    assert site.daemon.stop() == 0
    until(lambda: site.ward.statuses()[-1] == "stopped", "the goodbye")
    assert site.ward.statuses() == ["online", "offline", "online", "stopped"]
    assert [json.loads(payload)["state"] for payload in retained(site.broker, "status")] == ["stopped"]


def test_health_is_retained_and_healthz_agrees(open_site: OpenSite) -> None:
    site = open_site()
    until(lambda: site.ward.healths(), "the first health message")
    told, (status, asked) = site.ward.healths()[0], site.daemon.health()
    manifest = shipped_runtime().bundle.manifest
    assert told["model"] == asked["model"] == {
        "name": manifest.name, "version": manifest.version, "hash": manifest.model_hash,
    }  # fmt: skip
    assert (status, asked["healthy"], asked["connected"], told["runtime"]) == (200, True, True, shipped_runtime().name)
    assert len(retained(site.broker, "health")) == 1
    site.devices.send("bed", chunks_of(patient(3)))
    site.ward.await_scores("bed", 3)
    until(lambda: site.daemon.health()[1]["streams"] == 1 and site.daemon.health()[1]["chunks"] == 3, "the counts")
    site.broker.stop()
    until(lambda: site.daemon.health()[0] == 503, "ill health without a broker")
    assert site.daemon.health()[1]["connected"] is False


def test_sigint_stops_like_sigterm(open_site: OpenSite) -> None:
    site = open_site()
    assert site.daemon.process is not None
    site.daemon.process.send_signal(signal.SIGINT)
    assert site.daemon.process.wait(15) == 0
    assert "Traceback" not in site.daemon.log_path.read_text()


def test_a_daemon_without_a_broker_stops_within_seconds(open_site: OpenSite) -> None:
    site = open_site()
    site.broker.stop()
    until(lambda: site.daemon.health()[0] == 503, "the daemon's notice of the loss")
    assert site.daemon.stop() == 0


def test_a_reload_takes_a_changed_policy_into_effect(open_site: OpenSite, alarms: dict[str, Any]) -> None:
    site = open_site(model=alarms)
    samples = patient(20)
    chunks = chunks_of(samples)
    site.devices.send("bed", chunks[:12])
    raised = site.ward.await_alert("bed", "mi", "raised")
    site.ward.await_scores("bed", 12)  # the reload must meet no hop of the old policy still waiting
    site.daemon.configure(alerts={"classes": {"MI": {"on": 1.0, "off": 1.0, "dwell_s": 2.0}}})
    site.daemon.reload()
    (line,) = site.daemon.events("reloaded")
    assert line["needs_restart"] == []
    site.devices.send("bed", chunks[12:])
    cleared = site.ward.await_alert("bed", "mi", "cleared")
    assert (cleared.id, cleared.at.i, cleared.threshold) == (raised.id, 1399, 1.0)
    assert_same_scores(site.ward.await_scores("bed", 20), samples)


def test_a_reload_changes_the_limits_of_streams_that_are_followed_already(open_site: OpenSite) -> None:
    site = open_site(streams={"reorder_wait_s": 9.0})
    chunks = chunks_of(patient(20))
    site.devices.send("bed", chunks[:5])
    site.ward.await_scores("bed", 5)
    site.daemon.configure(
        streams={"reorder_wait_s": 0.0, "gap_bridge_s": 0.5, "max_payload_bytes": 1 << 24}, http={"port": 1}
    )
    site.daemon.reload()
    assert site.daemon.events("reloaded")[0]["needs_restart"] == ["http.port", "streams.max_payload_bytes"]
    site.devices.send("bed", chunks[6:])
    site.ward.await_scores("bed", 19)
    until(lambda: site.daemon.metric("gaps_total", outcome="lost") == 1, "the next poll, which counts")


def test_a_faulty_configuration_is_refused_and_the_daemon_goes_on(open_site: OpenSite) -> None:
    site = open_site()
    samples = patient(12)
    chunks = chunks_of(samples)
    site.devices.send("bed", chunks[:6])
    for faulty in (
        "[streams]\nmax_stream = 3",
        "not TOML at all",
        "[node]\nstate_dir = '~no-such-user'",
        "[alerts.classes.XYZ]\non = 0.5",
    ):
        site.daemon.config_path.write_text(faulty)
        site.daemon.reload()
    refused = site.daemon.events("reload_refused")
    assert len(refused) == 4
    assert "max_stream" in refused[0]["problem"]
    site.devices.send("bed", chunks[6:])
    assert_same_scores(site.ward.await_scores("bed", 12), samples)


def retained(broker: Any, kind: str) -> list[bytes]:
    """Return what a newcomer is given on the node's topic."""
    with ward_on(broker, "newcomer") as newcomer:
        topic = f"ecg/v1/edge/{NODE}/{kind}"
        until(lambda: newcomer.payloads(topic), f"the retained {kind}")
        return newcomer.payloads(topic)


def test_scores_are_published_only_while_they_are_asked_for(open_site: OpenSite, alarms: dict[str, Any]) -> None:
    site = open_site(model=alarms, publish={"scores": False})
    chunks = chunks_of(patient(20))
    site.devices.send("bed", chunks[:12])
    site.ward.await_alert("bed", "mi", "raised")
    until(lambda: site.daemon.metric("scores_total", state="ready") == 3, "the hops")
    assert site.ward.scores("bed") == []
    site.daemon.configure(publish={"scores": True})
    site.daemon.reload()
    site.devices.send("bed", chunks[12:])
    assert [score["i"] for score in site.ward.await_scores("bed", 8)] == list(range(1299, 2000, 100))
