"""A carried state that no signal explains, through all layers: reset, told as a condition, counted, and over."""

from __future__ import annotations

import sqlite3
from pathlib import Path

import msgspec

from edge.daemon.snapshots import MODEL_PREFIX, Snapshot, pack, sealed, unpack, unsealed
from tests.daemon import until
from tests.ecg import chunks_of, patient
from tests.system.conftest import OpenSite
from tests.watched import multiplied, watched_bundle

BEFORE_S, AFTER_S = 14, 46
STRIKES = 3
WINDOW_HOPS = 10


def test_a_state_damaged_on_disk_is_noticed_given_up_and_told_until_it_is_well_again(
    open_site: OpenSite, tmp_path: Path
) -> None:
    site = open_site(model={"bundle": str(watched_bundle(tmp_path / "watched").path)})
    chunks = chunks_of(patient(BEFORE_S + AFTER_S, seed=1))
    site.devices.send("bed", chunks[:BEFORE_S])
    site.ward.await_scores("bed", BEFORE_S)
    until(lambda: site.daemon.metric("state_rms_ratio", tensor="ssm_0") > 0, "a look at the state")
    assert site.daemon.metric("state_rms_ratio", tensor="ssm_0") < site.daemon.metric(
        "state_limit_ratio", tensor="ssm_0"
    )
    assert site.daemon.health()[1]["state"]["resets"] == 0
    site.daemon.stop()
    damage(site.daemon.directory / "state" / "snapshots.sqlite", 1e4)
    site.daemon.start()
    site.devices.send("bed", chunks[BEFORE_S:])
    scores = site.ward.await_scores("bed", BEFORE_S + AFTER_S)[BEFORE_S:]
    states = [score["state"] for score in scores]
    ready_again = STRIKES + WINDOW_HOPS - 1
    assert states == ["warming"] * ready_again + ["ready"] * (AFTER_S - ready_again)
    assert [score["p"] is None for score in scores] == [hop == STRIKES - 1 for hop in range(AFTER_S)]
    raised = site.ward.await_alert("bed", "model_state", "raised")
    cleared = site.ward.await_alert("bed", "model_state", "cleared")
    assert (raised.kind, raised.id, raised.at.i) == ("technical", cleared.id, (BEFORE_S + STRIKES) * 100 - 1)
    until(lambda: site.daemon.metric("resets_total", reason="model_state") == 1, "the next poll, which counts")
    assert site.daemon.health()[1]["state"]["resets"] == 1
    (logged,) = site.daemon.events("model_state_reset")
    assert (logged["device"], logged["level"]) == ("bed", "warning")


def damage(path: Path, factor: float) -> None:
    """Multiply the SSM states of every snapshot."""
    database = sqlite3.connect(path, isolation_level=None)
    for device, stored in database.execute("SELECT device, state FROM snapshot").fetchall():
        snapshot = msgspec.msgpack.decode(unsealed(stored), type=Snapshot)
        damaged = pack(multiplied(unpack(snapshot.arrays), factor, f"{MODEL_PREFIX}ssm_"))
        changed = msgspec.structs.replace(snapshot, arrays=damaged)
        state = sealed(msgspec.msgpack.encode(changed))
        database.execute("UPDATE snapshot SET state = ? WHERE device = ?", (state, device))
    database.close()
