"""Building an engine: what TensorRT does not take is said in one line, what it does not need is done without."""

from __future__ import annotations

from pathlib import Path

import pytest

from edge.runtime.graph_file import read_graph
from edge.runtime.manifest import GRAPHS
from edge.runtime.tensorrt.build import EngineBuildError, build_engine
from edge.runtime.tensorrt.engine import import_tensorrt
from edge.runtime.tensorrt.key import BatchProfile, batch_profiles
from tests.fake_gpu.machine import Machine
from tests.fake_gpu.plug_in import plug_in
from tests.tiny_bundle import tiny_bundle


@pytest.fixture
def trt(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    plug_in(monkeypatch, Machine(), tmp_path / "engines")
    return import_tensorrt()


@pytest.fixture
def bundle(tmp_path: Path):
    return tiny_bundle(tmp_path / "bundle")


@pytest.fixture
def graph(bundle):
    return read_graph(bundle, GRAPHS["fp32"])


@pytest.mark.parametrize("known", [b"", b"timings", b"of another TensorRT"])
def test_timings_that_are_of_no_use_are_measured_anew(trt, bundle, graph, known):
    built = build_engine(trt, graph, batch_profiles(bundle.manifest), known)

    assert built.engine
    assert built.timings == b"timings"


def test_no_timings_are_kept_where_none_are_asked_for(trt, bundle, graph):
    assert build_engine(trt, graph, batch_profiles(bundle.manifest)).timings == b""


def test_shapes_that_do_not_rise_are_refused_in_tensorrts_words(trt, graph):
    with pytest.raises(EngineBuildError, match=r"^the engine cannot be built: the optimization profile is not valid$"):
        build_engine(trt, graph, [BatchProfile(1, 100, 4, 1000)])


def test_what_the_parser_does_not_take_is_said_in_its_words(trt, bundle):
    with pytest.raises(EngineBuildError, match=r"^the engine cannot be built: cannot be parsed: DecodeError$"):
        build_engine(trt, b"no graph", batch_profiles(bundle.manifest))
