"""The shipped graphs compile for NVIDIA GPUs, on a machine that has none: TensorRT for RTX builds without a device.

Its engines are thrown away, as RTX runs on neither a Jetson nor a data-centre GPU. What is held is that its parser and
compiler, which TensorRT shares, still take the graphs, through the very calls a device makes, and that nothing in
them, the scans' loops above all, keeps a CUDA graph from recording them.
"""

from __future__ import annotations

from types import ModuleType

import onnx
import pytest
from onnx import helper

from edge.runtime.bundle import Bundle, load_bundle
from edge.runtime.tensorrt.build import EngineBuildError, build_engine
from edge.runtime.tensorrt.key import batch_profiles
from export.precision import graph_bytes
from tests.fake_gpu import tensorrt as fake
from tests.nvidia_tools import tensorrt_rtx

STAND_INS: dict[str, type] = {
    "INetworkDefinition": fake._Network,
    "OnnxParser": fake._Parser,
    "IOptimizationProfile": fake._Profile,
    "IBuilderConfig": fake._Config,
    "Builder": fake._Builder,
    "Runtime": fake._Runtime,
    "ICudaEngine": fake.Engine,
    "IExecutionContext": fake.Context,
}
"""Class of the bindings → what unit tests have in its place."""


@pytest.fixture(scope="module")
def trt() -> ModuleType:
    return tensorrt_rtx()


@pytest.fixture(scope="module")
def bundle() -> Bundle:
    return load_bundle()


@pytest.mark.parametrize(("precision", "sm_name"), [("fp16", "SM75"), ("fp16", "SM86"), ("fp32", "SM86")])
def test_the_shipped_model_compiles(trt: ModuleType, bundle: Bundle, precision: str, sm_name: str) -> None:
    built = build_engine(trt, graph_bytes(bundle, precision), batch_profiles(bundle.manifest), sm_name=sm_name)
    assert len(built.engine) > 100_000


def test_the_compiler_has_no_float32_products_for_a_t4_and_the_error_says_what_to_take_instead(
    trt: ModuleType, bundle: Bundle
) -> None:
    with pytest.raises(EngineBuildError, match=r"no float32 matrix product .* take --precision fp16"):
        build_engine(trt, graph_bytes(bundle, "fp32"), batch_profiles(bundle.manifest), sm_name="SM75")


def test_a_graph_that_does_not_compile_is_noticed(trt: ModuleType, bundle: Bundle) -> None:
    model = onnx.load_from_string(graph_bytes(bundle, "fp16"))
    (first, *_) = [node for node in model.graph.node if node.op_type == "Softplus"]
    first.CopyFrom(helper.make_node("Det", list(first.input), list(first.output)))
    with pytest.raises(EngineBuildError, match="Det"):
        build_engine(trt, model.SerializeToString(), batch_profiles(bundle.manifest), sm_name="SM86")


@pytest.mark.parametrize("name", STAND_INS)
def test_the_tests_stand_in_has_no_calls_that_the_real_bindings_lack(trt: ModuleType, name: str) -> None:
    calls = {call for call in vars(STAND_INS[name]) if not call.startswith("_")}
    assert calls
    assert calls <= set(dir(getattr(trt, name)))
