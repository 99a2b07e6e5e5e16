"""One device's stream in the daemon: its queue is bounded, its snapshot complete, its hops know whose they are."""

from __future__ import annotations

import gc
import sqlite3
import weakref
from pathlib import Path

import msgspec
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from edge.alerts.events import Model, State
from edge.daemon.alert_settings import alert_policy
from edge.daemon.config import AlertsConfig
from edge.daemon.device_stream import DeviceStream
from edge.daemon.snapshots import PackedArray, Snapshot, SnapshotStore, pack, unpack
from edge.daemon.stream_alerts import StreamAlerts
from edge.errors import LeadsError, StorageError
from edge.monitor.engine import score_hops
from edge.runtime.bundle import load_bundle
from edge.runtime.select import open_runtime
from edge.signal.leads import STANDARD_LEADS
from edge.stream.assembler import AssemblerLimits
from edge.stream.runs import Reset
from edge.stream.wire import Flags
from tests.ecg import chunks_of, patient
from tests.reference import offline_scores, shipped_runtime
from tests.tiny_bundle import tiny_bundle

MANIFEST = load_bundle().manifest
MODEL = Model("m", MANIFEST.model_hash, "r")
SAMPLES = patient(14, seed=20)


@pytest.fixture(scope="module")
def voting(tmp_path_factory):
    return open_runtime(tiny_bundle(tmp_path_factory.mktemp("bundles") / "votes", vote_hops=2))


def make_stream(device="bed", backlog_hops=100, manifest=MANIFEST, **limits):
    policy = alert_policy(AlertsConfig(), manifest)
    alerts = StreamAlerts(device, "node", MODEL, policy, manifest)
    return DeviceStream(device, manifest, AssemblerLimits(**limits), backlog_hops, alerts, last_arrival_s=0.0)


def score_waiting(stream, runtime=None):
    """Do what the pipeline does; return logits (hops, classes)."""
    runtime, logits = runtime or shipped_runtime(), []
    while stream.waiting:
        hop = stream.waiting.popleft().hop
        logits.append(score_hops(runtime, [stream.join_model(runtime)], [hop])[0].logits)
    return logits


def saved(stream, runtime=None):
    """Do what the keeper does; return the snapshot as it comes from the disk."""
    snapshot = stream.snapshot(MANIFEST.model_hash, now_ns=5)
    assert snapshot is not None
    if stream.model is not None:
        snapshot = snapshot.with_model((runtime or shipped_runtime()).save_slot(stream.model.slot))
    return msgspec.msgpack.decode(msgspec.msgpack.encode(snapshot), type=Snapshot)


def feed(stream, chunks, now_s=0.0):
    for chunk in chunks:
        stream.receive(chunk, now_s)


@pytest.mark.parametrize("rate_hz", [100, 500])
@given(data=st.data())
@settings(max_examples=8, deadline=None)
def test_a_stream_restored_anywhere_scores_on_bit_for_bit(rate_hz, data):
    samples = patient(12, rate_hz, seed=21)
    chunks = chunks_of(samples, rate_hz, data.draw(st.integers(rate_hz // 10, 2 * rate_hz)))
    stops = data.draw(st.sets(st.integers(1, len(chunks) - 1), max_size=3))
    stream, logits = make_stream(), []
    for number, chunk in enumerate(chunks):
        if number in stops:
            successor = make_stream()
            successor.restore(saved(stream), now_s=0.0)
            stream = successor
        stream.receive(chunk, 0.0)
        logits += score_waiting(stream)
    assert np.array_equal(logits, [score.logits for score in offline_scores(samples, rate_hz)])
    assert stream.model is not None
    assert stream.model.hops_seen == 12


@given(data=st.data())
@settings(max_examples=8, deadline=None)
def test_a_stream_with_votes_restored_anywhere_scores_on_bit_for_bit(voting, data):
    chunks = chunks_of(SAMPLES, 100, data.draw(st.integers(30, 200)))
    stops = data.draw(st.sets(st.integers(1, len(chunks) - 1), max_size=3))
    stream, logits = make_stream(manifest=voting.bundle.manifest), []
    for number, chunk in enumerate(chunks):
        for _ in range(2 if number in stops else 0):  # the second time before it has scored again
            successor = make_stream(manifest=voting.bundle.manifest)
            successor.restore(saved(stream, voting), now_s=0.0)
            stream = successor
        stream.receive(chunk, 0.0)
        logits += score_waiting(stream, voting)
    assert np.array_equal(logits, [score.logits for score in offline_scores(SAMPLES, 100, voting)])


def test_a_snapshot_from_before_votes_warms_up_for_a_window_and_strange_votes_are_refused(voting):
    manifest = voting.bundle.manifest
    stream = make_stream(manifest=manifest)
    feed(stream, chunks_of(SAMPLES))
    score_waiting(stream, voting)
    good = saved(stream, voting)
    older = {name: array for name, array in good.arrays.items() if name != "votes"}
    successor = make_stream(manifest=manifest)
    successor.restore(msgspec.structs.replace(good, arrays=older), now_s=0.0)
    restored = successor.join_model(voting)
    assert (restored.hops_seen, restored.votes) == (0, None)
    before, after = voting.save_slot(stream.model.slot), voting.save_slot(restored.slot)
    assert all(np.array_equal(after[name], before[name]) for name in before)
    votes = unpack(good.arrays)["votes"]
    assert votes.shape == (9, 5)
    for strange in (votes[:-1], votes[:, :4], np.full_like(votes, np.nan)):
        arrays = {**good.arrays, **pack({"votes": np.ascontiguousarray(strange)})}
        with pytest.raises(StorageError, match="votes"):
            make_stream(manifest=manifest).restore(msgspec.structs.replace(good, arrays=arrays), now_s=0.0)


def test_chunks_that_wait_for_a_missing_one_are_in_the_snapshot():
    chunks = chunks_of(SAMPLES)
    stream = make_stream()
    feed(stream, [*chunks[:3], *chunks[4:7]])
    score_waiting(stream)
    successor = make_stream()
    successor.restore(saved(stream), now_s=0.0)
    feed(successor, [chunks[3], *chunks[7:]])
    assert [entry.hop.last_index for entry in successor.waiting] == list(range(399, 1400, 100))


def test_sessions_that_are_over_stay_over_after_a_restart():
    chunks = chunks_of(SAMPLES, session="old")
    stream = make_stream()
    feed(stream, [*chunks[:2], *chunks_of(SAMPLES[:300], session="new")])
    score_waiting(stream)
    successor = make_stream()
    successor.restore(saved(stream), now_s=0.0)
    feed(successor, chunks[2:4])
    assert successor.session == "new"
    assert not successor.waiting


def test_a_stream_that_was_sent_far_ahead_can_be_saved():
    stream, chunks = make_stream(reorder_wait_s=0.2), chunks_of(patient(3, seed=4), 100, 100)
    feed(stream, chunks[:1])
    feed(stream, [msgspec.structs.replace(chunks[1], index=2**50, time_ns=None)])
    stream.poll(1.0)
    moments = [entry.moment(now_ns=0, latency_ms=0.0) for entry in stream.waiting]
    assert [moment.index for moment in moments] == [99, 2**50 + 99]
    for entry, moment in zip(list(stream.waiting), moments, strict=True):
        (score,) = score_hops(shipped_runtime(), [stream.join_model(shipped_runtime())], [entry.hop])
        stream.alerts.step(moment, entry.hop, score)
    stream.waiting.clear()
    assert saved(stream).expected == 2**50 + 100


def test_there_is_no_snapshot_while_hops_wait_or_are_with_the_model():
    stream = make_stream()
    assert stream.snapshot("hash", 0) is None  # nothing has come yet
    feed(stream, chunks_of(SAMPLES)[:1])
    assert stream.snapshot("hash", 0) is None
    score_waiting(stream)
    stream.in_flight = True
    assert stream.snapshot("hash", 0) is None
    stream.in_flight = False
    assert stream.snapshot("hash", 0) is not None


def test_a_snapshot_of_another_model_or_a_damaged_one_changes_nothing():
    stream = make_stream()
    feed(stream, chunks_of(SAMPLES)[:2])
    score_waiting(stream)
    good = saved(stream)
    name = next(name for name in good.arrays if name.startswith("model."))
    other_shape = {name: PackedArray("float32", (1,), bytes(4))}
    cut = {name: msgspec.structs.replace(good.arrays[name], data=b"")}
    without_path = {key: array for key, array in good.arrays.items() if not key.startswith("path.")}
    faulty = [
        msgspec.structs.replace(good, arrays=good.arrays | other_shape),
        msgspec.structs.replace(good, arrays=good.arrays | cut),
        msgspec.structs.replace(good, arrays=without_path),
        msgspec.structs.replace(good, held=[b"junk"]),
        msgspec.structs.replace(good, layout=good.layout._replace(leads=("I", "II"))),
        msgspec.structs.replace(good, alerts={"classes": 5}),
    ]
    for snapshot in faulty:
        successor = make_stream()
        with pytest.raises(StorageError):
            successor.restore(snapshot, now_s=0.0)
        assert successor.assembler.position is None


def test_a_full_queue_drops_the_oldest_hops_and_starts_afresh_behind_them():
    stream = make_stream(backlog_hops=3)
    feed(stream, chunks_of(SAMPLES)[:5])
    assert [entry.hop.last_index for entry in stream.waiting] == [299, 399, 499]
    assert [entry.hop.reset for entry in stream.waiting] == [Reset.OVERLOAD, None, None]
    assert stream.dropped_samples == 200
    assert stream.resets == [Reset.START, Reset.OVERLOAD, Reset.OVERLOAD]


def test_a_chunk_longer_than_the_queue_loses_nothing_of_itself():
    stream = make_stream(backlog_hops=3)
    for number, chunk in enumerate(chunks_of(patient(24, seed=22), sizes=1200)):
        stream.receive(chunk, 12.0 * number)
        assert len(stream.waiting) == 12
        assert stream.dropped_samples == 1200 * number  # the chunk before was not scored in time
    assert stream.resets == [Reset.START, Reset.OVERLOAD]


def test_what_is_known_already_is_no_sign_of_life():
    stream = make_stream()
    feed(stream, chunks_of(SAMPLES)[:3], now_s=1.0)
    feed(stream, chunks_of(SAMPLES)[:1], now_s=2.0)
    feed(stream, chunks_of(SAMPLES, session="s2")[:1], now_s=3.0)
    feed(stream, chunks_of(SAMPLES)[3:4], now_s=4.0)
    assert stream.last_arrival_s == 3.0


def test_a_chunk_that_is_held_is_something_to_save():
    stream = make_stream()
    feed(stream, chunks_of(SAMPLES)[:1])
    stream.changed = False
    feed(stream, chunks_of(SAMPLES)[2:3])
    assert stream.changed


def raised(stream, chunks):
    """Play chunks and return the codes of all alerts that are raised."""
    for chunk in chunks:
        stream.receive(chunk, 0.0)
        stream.poll(0.0)
    codes = set()
    model = stream.join_model(shipped_runtime())
    while stream.waiting:
        entry = stream.waiting.popleft()
        (score,) = score_hops(shipped_runtime(), [model], [entry.hop])
        events, _ = stream.alerts.step(entry.moment(0, 1.0), entry.hop, score)
        codes |= {event.code for event in events if event.state is State.RAISED}
    return codes


def test_a_cable_that_is_off_is_told_as_that_and_missing_chunks_as_a_gap():
    chunks = chunks_of(SAMPLES)
    off = [msgspec.structs.replace(chunk, flags=Flags(lead_off=0xFFF)) for chunk in chunks[4:]]
    assert raised(make_stream(), chunks[:4] + off) == {"lead_off"}
    railed = [msgspec.structs.replace(chunk, samples=np.full_like(chunk.samples, -32768)) for chunk in chunks[4:]]
    assert raised(make_stream(), chunks[:4] + railed) == {"lead_off"}
    fifths = [chunk for k, chunk in enumerate(chunks_of(SAMPLES, sizes=20)) if k % 5 not in (1, 3)]
    assert raised(make_stream(reorder_wait_s=0.0), fifths) == {"gap"}


def test_a_lead_the_model_does_not_use_may_come_and_go():
    samples = np.column_stack([SAMPLES, SAMPLES[:, :1]])
    samples[200:500, 12] = samples[700:1000, 12] = -32768
    stream = make_stream()
    feed(stream, chunks_of(samples, leads=(*STANDARD_LEADS, "RESP")))
    assert stream.resets == [Reset.START]


def test_hops_that_wait_keep_their_session_when_the_stream_has_moved_on():
    stream = make_stream()
    feed(stream, [*chunks_of(SAMPLES)[:2], *chunks_of(SAMPLES, session="s2")[:1]])
    moments = [entry.moment(now_ns=0, latency_ms=1.0) for entry in stream.waiting]
    assert [(moment.session, moment.index) for moment in moments] == [("s1", 99), ("s1", 199), ("s2", 99)]
    assert stream.session == "s2"


def test_leads_that_do_not_fit_make_the_stream_unfit_until_they_do():
    stream = make_stream()
    feed(stream, chunks_of(SAMPLES[:, :2], leads=("I", "II")))
    assert isinstance(stream.unfit, LeadsError)
    assert not stream.waiting
    feed(stream, chunks_of(SAMPLES, session="s2")[:1])
    assert stream.unfit is None
    assert len(stream.waiting) == 1


def test_changed_limits_hold_from_the_next_chunk_on():
    stream = make_stream(backlog_hops=100, reorder_wait_s=9.0)
    feed(stream, chunks_of(SAMPLES)[:6])
    stream.adopt(AssemblerLimits(gap_bridge_s=0.1, reorder_wait_s=0.0), backlog_hops=2)
    feed(stream, chunks_of(SAMPLES)[7:8])
    stream.poll(0.0)
    assert [entry.hop.last_index for entry in stream.waiting] == [599, 799]
    assert [entry.hop.reset for entry in stream.waiting] == [Reset.OVERLOAD, Reset.GAP]


def test_when_the_oldest_hop_came_is_known_while_one_waits():
    stream = make_stream()
    assert stream.waiting_since_s is None
    feed(stream, chunks_of(SAMPLES)[:1], now_s=3.0)
    feed(stream, chunks_of(SAMPLES)[1:2], now_s=4.0)
    assert stream.waiting_since_s == 3.0


def test_arrays_come_back_as_they_were():
    arrays = {"a": np.arange(6, dtype=np.float32).reshape(2, 3), "b": np.array([True]), "c": np.zeros((0, 3))}
    back = unpack(pack(arrays))
    assert all(np.array_equal(back[name], array) and back[name].dtype == array.dtype for name, array in arrays.items())


def test_snapshots_are_kept_by_device_until_they_are_too_old(tmp_path: Path) -> None:
    store = SnapshotStore(tmp_path / "snapshots.sqlite")
    old, new = (snapshot_of(device, at_ns) for device, at_ns in (("a", 10), ("b", 20)))
    store.write([old, new])
    store.write([msgspec.structs.replace(new, expected=7)])
    assert [(s.device, s.expected) for s in store.read(newer_than_ns=15)] == [("b", 7)]
    assert [s.device for s in store.read(newer_than_ns=0)] == ["b"]
    store.remove("b")
    assert store.read(0) == []
    store.close()


def test_a_damaged_file_of_snapshots_is_begun_anew(tmp_path: Path) -> None:
    path = tmp_path / "snapshots.sqlite"
    path.write_bytes(b"this is no database, and long enough to look like one" * 100)
    store = SnapshotStore(path)
    store.write([snapshot_of("a", 1)])
    assert [s.device for s in store.read(0)] == ["a"]
    store.close()


@pytest.mark.parametrize("share", np.linspace(0.0, 1.0, 40, endpoint=False))
def test_no_flipped_bit_of_the_first_page_keeps_snapshots_from_being_written_and_read(
    tmp_path: Path, share: float
) -> None:
    path = tmp_path / "snapshots.sqlite"
    SnapshotStore(path).close()
    page = bytearray(path.read_bytes())
    used = [at for at in range(4096) if page[at] or 16 <= at < 24]
    page[used[round(share * len(used))]] ^= 1 << round(share * 1000) % 8
    path.write_bytes(page)
    store = SnapshotStore(path)
    store.write([snapshot_of("a", 1)])
    assert [s.device for s in store.read(0)] == ["a"]
    store.close()


def test_a_row_that_cannot_be_read_is_removed(tmp_path: Path) -> None:
    path = tmp_path / "snapshots.sqlite"
    store = SnapshotStore(path)
    store.write([snapshot_of("a", 1), snapshot_of("b", 1)])
    database = sqlite3.connect(path, isolation_level=None)
    database.execute("UPDATE snapshot SET state = x'00' WHERE device = 'a'")
    assert [s.device for s in store.read(0)] == ["b"]
    assert database.execute("SELECT device FROM snapshot").fetchall() == [("b",)]
    database.close()
    store.close()


@given(bit=st.integers(0, 10**9))
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_one_flipped_bit_costs_one_snapshot_and_nothing_else(tmp_path: Path, bit: int) -> None:
    path = tmp_path / "snapshots.sqlite"
    store = SnapshotStore(path)
    store.write([snapshot_of("a", 1), snapshot_of("b", 1)])
    with sqlite3.connect(path) as database:
        (state,) = database.execute("SELECT state FROM snapshot WHERE device = 'a'").fetchone()
        flipped = bytearray(state)
        flipped[bit // 8 % len(state)] ^= 1 << bit % 8
        database.execute("UPDATE snapshot SET state = ? WHERE device = 'a'", (bytes(flipped),))
    assert [snapshot.device for snapshot in store.read(0)] == ["b"]
    assert [snapshot.device for snapshot in store.read(0)] == ["b"]
    store.close()


@pytest.mark.parametrize("counters", [[0, 100, 5], [-1, -1, 0], [0, 2**62, 2], [0, 99, 1], [0, 100, -1]])
def test_counters_that_cannot_be_are_refused(counters):
    stream = make_stream()
    feed(stream, chunks_of(SAMPLES, sizes=50)[:7])
    score_waiting(stream)
    good = saved(stream)
    changed = good.arrays | pack({"path.counters": np.array(counters)})
    with pytest.raises(StorageError, match="cannot be used"):
        make_stream().restore(msgspec.structs.replace(good, arrays=changed), now_s=0.0)


def test_a_disk_that_refuses_is_a_storage_error_and_the_next_write_works(tmp_path: Path) -> None:
    path = tmp_path / "snapshots.sqlite"
    store = SnapshotStore(path)
    other = sqlite3.connect(path, isolation_level=None)
    other.execute("CREATE TRIGGER full BEFORE INSERT ON snapshot BEGIN SELECT RAISE(ABORT, 'disk is full'); END")
    with pytest.raises(StorageError, match="disk is full"):
        store.write([snapshot_of("a", 1)])
    other.execute("DROP TRIGGER full")
    store.write([snapshot_of("a", 1)])
    assert [s.device for s in store.read(0)] == ["a"]
    other.close()
    store.close()


def test_a_folder_that_is_not_there_is_a_storage_error(tmp_path: Path) -> None:
    with pytest.raises(StorageError, match="missing"):
        SnapshotStore(tmp_path / "missing" / "snapshots.sqlite")


def snapshot_of(device, saved_at_ns):
    """Return the snapshot of a device that has just begun."""
    stream = make_stream(device)
    feed(stream, [msgspec.structs.replace(chunks_of(SAMPLES)[0], samples=SAMPLES[:20])])
    snapshot = stream.snapshot(MANIFEST.model_hash, saved_at_ns)
    assert snapshot is not None
    return snapshot


def test_a_stream_that_is_given_up_is_freed_without_a_look_for_cycles():
    stream = make_stream()
    feed(stream, chunks_of(SAMPLES))
    score_waiting(stream)
    shipped_runtime().close_slot(stream.model.slot)
    gone = weakref.ref(stream)
    gc.disable()
    try:
        del stream
        assert gone() is None
    finally:
        gc.enable()
