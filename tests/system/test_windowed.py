"""The real daemon with a windowed bundle does what it does with the recurrent one: scores, alerts, restarts."""

from __future__ import annotations

import json
import subprocess
import sys

import msgspec
import pytest

from edge.runtime.base import Runtime
from edge.runtime.bundle import load_bundle, write_manifest
from edge.runtime.select import open_runtime
from export.bundle import write_bundle
from tests.bundles import ALWAYS
from tests.daemon import until
from tests.ecg import chunks_of, disturbed, patient
from tests.reference import assert_same_scores
from tests.system.conftest import OpenSite
from tests.windowed_bundles import trained_checkpoint
from trainer.ptbxl import CACHE_VARIABLE

READY_S = 10


@pytest.fixture(scope="module")
def runtime(tmp_path_factory: pytest.TempPathFactory) -> Runtime:
    """A small network that the trainer has trained, as a bundle that alerts as soon as a stream is ready."""
    folder = tmp_path_factory.mktemp("windowed")
    with pytest.MonkeyPatch.context() as patched:
        patched.setenv(CACHE_VARIABLE, str(folder / "cache"))
        bundle = write_bundle(trained_checkpoint(folder)[0], folder / "bundle", "small", "0.1")
    points = dict.fromkeys(bundle.manifest.classes, ALWAYS)
    write_manifest(bundle.path, msgspec.structs.replace(bundle.manifest, operating_points=points))
    return open_runtime(load_bundle(bundle.path))


def test_scores_and_alerts_go_out_as_they_do_with_carried_state(open_site: OpenSite, runtime: Runtime) -> None:
    site = open_site(model={"bundle": str(runtime.bundle.path)})
    for device, rate_hz in (("bed-1", 100), ("bed-2", 500)):
        samples = patient(14, rate_hz, seed=rate_hz)
        site.devices.send(device, disturbed(chunks_of(samples, rate_hz, rate_hz // 5)))
        scores = site.ward.await_scores(device, 14)
        assert_same_scores(scores, samples, rate_hz, runtime)
        assert [score["state"] for score in scores] == ["warming"] * (READY_S - 1) + ["ready"] * 5
        assert {(score["model"], score["runtime"]) for score in scores} == {("small-0.1", "onnxruntime")}
        for code in ("mi", "sttc", "cd", "hyp"):
            assert site.ward.await_alert(device, code, "raised").model.name == "small-0.1"


def test_a_restart_goes_on_with_the_window_it_kept(open_site: OpenSite, runtime: Runtime) -> None:
    site = open_site(model={"bundle": str(runtime.bundle.path)})
    samples = patient(20, seed=8)
    chunks = chunks_of(samples, sizes=(37, 64))
    site.devices.send("bed", chunks[:25], wait=False)
    assert site.daemon.stop() == 0
    site.daemon.start()
    site.devices.send("bed", chunks[25:])
    assert_same_scores(site.ward.await_scores("bed", 20), samples, runtime=runtime)
    assert site.daemon.stop() == 0
    site.daemon.configure(
        model={"bundle": str(load_bundle().path)}
    )  # the recurrent bundle that ships: what was kept is none of its state
    site.daemon.start()
    site.devices.send("bed", chunks_of(patient(3, seed=8), first_index=2000))
    until(lambda: site.ward.scores("bed")[-1]["i"] == 2299, "the last score")
    after = [score for score in site.ward.scores("bed") if score["i"] >= 2000]
    assert {score["state"] for score in after} == {"warming"}
    assert {score["model"].rsplit("-", 1)[0] for score in after} == {"ecg-mamba"}


def test_the_score_command_takes_it_too(runtime: Runtime) -> None:
    words = ["score", "--simulate", "12", "--json", "--bundle", str(runtime.bundle.path)]
    scored = json.loads(subprocess.run([sys.executable, "-m", "edge", *words], check=True, capture_output=True).stdout)
    (record,) = scored["records"]
    assert record["state"] == "ready"
    assert list(record["probabilities"]) == runtime.bundle.manifest.classes
