"""Replay against a real broker: what a recording holds is what arrives."""

from __future__ import annotations

import json
import os
from threading import Event

import numpy as np
import pytest

from edge.cli import main
from edge.errors import TransportError
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
    import asyncio

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
