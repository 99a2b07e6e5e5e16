"""A GPU that dies under a running daemon: it ends with one line, and its next start watches on the CPU.

The GPU is `tests/fake_gpu`, the daemon and the broker are real.
"""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from edge.daemon.config import Config
from edge.daemon.node import Node
from edge.errors import RuntimeUnavailableError
from tests.daemon import NODE
from tests.ecg import chunks_of, patient
from tests.fake_gpu.machine import Machine
from tests.fake_gpu.plug_in import build_engine_here, plug_in
from tests.helpers import eventually
from tests.mosquitto import Mosquitto
from tests.tiny_bundle import tiny_bundle
from tests.ward import devices_on, ward_on


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Machine:
    machine = Machine()
    plug_in(monkeypatch, machine, tmp_path / "engines")
    return machine


async def test_the_daemon_ends_with_one_line_and_starts_again_on_the_cpu(
    tmp_path: Path, broker: Mosquitto, gpu: Machine, caplog: pytest.LogCaptureFixture
) -> None:
    bundle = tiny_bundle(tmp_path / "bundle")
    build_engine_here(bundle)
    config = Config.model_validate(
        {
            "node": {"name": NODE, "state_dir": str(tmp_path / "state")},
            "model": {"bundle": str(bundle.path), "runtime": "tensorrt"},
            "broker": {"port": broker.port},
            "http": {"enabled": False},
        }
    )
    chunks = chunks_of(patient(6))
    with ward_on(broker) as ward, devices_on(broker) as devices:

        def runtimes_of_scores() -> list[str]:
            return [score["runtime"] for score in ward.scores("bed")]

        node = Node(config)
        task = asyncio.create_task(node.run())
        await eventually(lambda: task.done() or node.summary()["connected"], 20, "the connection")
        for number, chunk in enumerate(chunks[:3], 1):
            devices.send("bed", [chunk])
            await eventually(lambda n=number: len(ward.scores("bed")) == n, 20, "a score of the GPU's")
        assert runtimes_of_scores() == ["tensorrt-fp32"] * 3

        gpu.failure = "cuStreamSynchronize failed: unspecified launch failure"
        devices.send("bed", chunks[3:4])
        with pytest.raises(RuntimeUnavailableError, match=r"^runtime 'tensorrt' .*: the GPU cannot be used: .*$"):
            await asyncio.wait_for(task, 20)

        caplog.clear()
        node = Node(config)
        (warning,) = [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]
        assert warning.startswith(f"runtime 'tensorrt' is not available: the GPU cannot be used: {gpu.failure}; ")
        task = asyncio.create_task(node.run())
        await eventually(lambda: task.done() or node.summary()["connected"], 20, "the connection")
        devices.send("bed", chunks[4:])
        await eventually(lambda: len(ward.scores("bed")) > 3, 20, "a score of the CPU's")
        node.stop()
        await task
    assert "tensorrt-fp32" not in runtimes_of_scores()[3:]
    assert warning.endswith(f"; {runtimes_of_scores()[-1]} runs instead")
