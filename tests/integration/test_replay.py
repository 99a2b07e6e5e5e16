"""Replay against a real broker: what a recording holds is what arrives."""

from __future__ import annotations

import asyncio
import json
import os
import time
from threading import Event, Timer

import numpy as np
import pytest
import wfdb

from edge.cli import main
from edge.errors import RecordError, TransportError
from edge.replay.device import ENCODERS
from edge.replay.patient import simulate
from edge.replay.perturb import Network
from edge.replay.session import Plan, play_devices
from edge.stream import wire
from tests.helpers import eventually
from tests.mqtt_client import MqttClient, settings_for


def plan_for(broker, **changes):
    return Plan(broker.host, broker.port, **{"speed": 50.0, **changes})


async def played(broker, plan, playlists):
    """Play in a thread while a subscriber listens; return device → chunks, and the other messages."""
    async with MqttClient(settings_for(broker, "ward"), "ecg/v1/#") as ward:
        sent = await asyncio.to_thread(play_devices, plan, playlists, Event())
        total = sum(done.chunks for done in sent.values())
        waves = lambda: [m for m in ward.messages if m.topic.endswith("/wave")]  # noqa: E731
        await eventually(lambda: len(waves()) >= total, what="all chunks")
        await eventually(
            lambda: sum(b"offline" in m.payload for m in ward.messages) >= len(playlists), what="all good-byes"
        )
    by_device = {name: [] for name in playlists}
    for message in waves():
        by_device[message.topic.split("/")[2]].append(wire.decode(message.payload))
    return by_device, [m for m in ward.messages if not m.topic.endswith("/wave")]


@pytest.mark.parametrize("encoding", sorted(ENCODERS))
async def test_every_sample_arrives_and_makes_up_the_recording_again(broker, encoding):
    recording = simulate(5.0, 500, seed=2)
    arrived, _ = await played(broker, plan_for(broker, encode=ENCODERS[encoding]), {"bed-1": [recording]})
    samples_mv = np.concatenate([wire.to_millivolts(chunk)[0] for chunk in arrived["bed-1"]])
    assert np.abs(samples_mv - recording.samples_mv).max() <= 0.0005 + 1e-9  # half a unit of 1 µV


async def test_devices_do_not_mix_and_say_who_they_are(broker):
    recordings = {f"bed-{k}": [simulate(3.0, 250, seed=k)] for k in (1, 2, 3)}
    arrived, others = await played(broker, plan_for(broker), recordings)
    for name, (recording,) in recordings.items():
        samples_mv = np.concatenate([wire.to_millivolts(chunk)[0] for chunk in arrived[name]])
        assert np.abs(samples_mv - recording.samples_mv).max() < 0.001
        said = [json.loads(m.payload) for m in others if m.topic == f"ecg/v1/{name}/status"]
        assert [status["state"] for status in said] == ["online", "offline"]
        (info,) = (json.loads(m.payload) for m in others if m.topic == f"ecg/v1/{name}/info")
        assert info["fs"] == 250


async def test_trouble_comes_as_asked(broker):
    network = Network(loss=0.2, duplicate=0.2, reorder=0.2, seed=5)
    arrived, _ = await played(broker, plan_for(broker, network=network), {"bed-1": [simulate(40.0, 100)]})
    numbers = [chunk.number for chunk in arrived["bed-1"]]
    assert 120 < len(set(numbers)) < 190  # of 200
    assert len(numbers) > len(set(numbers))
    assert numbers != sorted(numbers)


async def test_nothing_is_lost_when_a_device_outruns_the_broker_and_leaves(broker):
    recording = simulate(79.0, 500)  # 395 chunks: as many as may wait are left at the end
    arrived, others = await played(broker, plan_for(broker, speed=1e6), {"bed-1": [recording]})
    assert sum(len(chunk.samples) for chunk in arrived["bed-1"]) == 39_500
    said = [json.loads(m.payload)["state"] for m in others if m.topic.endswith("/status")]
    assert said == ["online", "offline"]  # its own good-bye, not also its will


async def test_a_broker_that_restarts_is_given_every_chunk(broker):
    recording = simulate(60.0, 100)
    restarting = Timer(0.3, broker.restart)
    async with MqttClient(settings_for(broker, "ward", session_expiry_s=60), "ecg/v1/+/wave") as ward:
        restarting.start()
        sent = await asyncio.to_thread(play_devices, plan_for(broker), {"bed-1": [recording]}, Event())
        assert sent["bed-1"].samples == 6000
        await eventually(lambda: {wire.decode(p).number for p in ward.payloads} == set(range(300)), what="every chunk")
    restarting.join()


async def test_stopping_leaves_at_once_and_says_good_bye(broker):
    stop = Event()
    async with MqttClient(settings_for(broker, "ward"), "ecg/v1/#") as ward:
        playing = asyncio.create_task(
            asyncio.to_thread(play_devices, plan_for(broker, speed=1.0), {"bed-1": [simulate(600.0, 100)]}, stop)
        )
        await eventually(lambda: any(m.topic.endswith("/wave") for m in ward.messages), what="the first chunk")
        stop.set()
        sent = await asyncio.wait_for(playing, 5.0)
        assert 1 <= sent["bed-1"].chunks < 100
        await eventually(lambda: any(b"offline" in payload for payload in ward.payloads), what="the good-bye")


async def test_a_chunk_is_never_sent_before_it_could_have_been_taken(broker):
    begun_s, moments = time.monotonic(), []
    await asyncio.to_thread(
        play_devices, plan_for(broker, speed=4.0), {"bed-1": [simulate(4.0, 100)]}, Event(),
        lambda device, chunk: moments.append((chunk.end / 100 / 4.0, time.monotonic() - begun_s)),
    )  # fmt: skip
    assert len(moments) == 20
    assert all(sent_s >= due_s for due_s, sent_s in moments)


def test_one_device_that_cannot_play_stops_the_others(broker):
    playlists = {"bed-1": [simulate(600.0, 100)], "bed-2": [simulate(1.0, 100), simulate(1.0, 500)]}
    begun_s = time.monotonic()
    with pytest.raises(RecordError, match="--between session"):
        play_devices(plan_for(broker, speed=1.0), playlists, Event())
    assert time.monotonic() - begun_s < 30.0


def test_the_command_plays_two_leads_and_says_what_is_missing(broker, tmp_path, capsys):
    samples_mv = np.random.default_rng(0).normal(size=(3600, 2)).round(2)
    wfdb.wrsamp("made", 360, ["mV", "mV"], ["MLII", "V1"], p_signal=samples_mv, fmt=["16", "16"],
                write_dir=str(tmp_path))  # fmt: skip
    address = f"{broker.host}:{broker.port}"
    assert main(["replay", str(tmp_path / "made"), "--broker", address, "--speed", "500", "--json"]) == 0
    printed = capsys.readouterr()
    result = json.loads(printed.out)
    assert result["devices"]["replay"]["samples"] == 3600
    assert result["unfit"]["made"][:2] == ["I", "II"]
    assert result["simulated"] is False
    assert "unfit" in printed.err


def test_the_command_labels_a_simulated_patient(broker, capsys):
    address = f"{broker.host}:{broker.port}"
    assert main(["replay", "--simulate", "2", "--devices", "2", "--broker", address, "--speed", "50", "--json"]) == 0
    printed = capsys.readouterr()
    result = json.loads(printed.out)
    assert result["simulated"] is True
    assert result["sources"] == {
        f"replay-{k}": [f"simulated patient {k - 1} (not real ECG)"] for k in (1, 2)
    }  # fmt: skip
    assert "not real ECG" in printed.err


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ([], "nothing to play"),
        (["--simulate", "1", "--device", "edge"], "reserved"),
        (["--simulate", "1", "--broker", "here:70000"], "HOST:PORT"),
        (["--simulate", "1", "--lead-off", "V9"], "no lead V9"),
        (["--simulate", "1", "--loss", "2"], "between 0 and 1"),
    ],
)
def test_what_cannot_be_played_is_refused_in_words(arguments, said, capsys):
    assert main(["replay", *arguments]) == 2
    assert said in capsys.readouterr().err


def test_without_a_broker_it_says_so_in_one_line():
    with pytest.raises(TransportError, match="no broker answers"):
        play_devices(Plan("127.0.0.1", 1), {"bed-1": [simulate(1.0)]}, Event())


def test_two_leads_are_played_as_they_are_and_declared_unfit(broker, capsys):
    root = os.environ.get("MITDB_ROOT")
    if not root:
        pytest.skip("MITDB_ROOT is not set: this test needs a copy of the MIT-BIH database")
    address = f"{broker.host}:{broker.port}"
    assert main(["replay", f"{root}/100", "--broker", address, "--speed", "2000", "--json"]) == 0
    printed = capsys.readouterr()
    result = json.loads(printed.out)
    assert result["devices"]["replay"]["samples"] == 650_000
    assert "V1" in result["unfit"]["100"]
    assert "unfit" in printed.err
