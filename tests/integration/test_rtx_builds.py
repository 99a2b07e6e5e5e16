"""The shipped graphs compile for NVIDIA GPUs, on a machine that has none: TensorRT for RTX builds without a device.

Its engines are thrown away, as RTX runs on neither a Jetson nor a data-centre GPU. What is held is that its parser and
compiler, which TensorRT shares, still take the graphs, through the very calls a device makes, and that nothing in
them, the scans' loops above all, keeps a CUDA graph from recording them.
"""

from __future__ import annotations

from types import ModuleType, SimpleNamespace
from typing import Any

import onnx
import pytest
from onnx import helper

from edge.runtime.bundle import Bundle, load_bundle
from edge.runtime.tensorrt.build import EngineBuildError, build_engine
from edge.runtime.tensorrt.complaints import complaints_of
from edge.runtime.tensorrt.fit import misfit
from edge.runtime.tensorrt.key import batch_profiles
from export.graph import recurrent_graph
from export.precision import graph_bytes
from tests.fake_gpu import tensorrt as fake
from tests.fake_gpu.engine import Context, Engine, plan_of
from tests.fake_gpu.machine import Machine
from tests.nvidia_tools import tensorrt_rtx
from tests.random_models import CONFIGS, random_model
from trainer.model import ModelConfig

STAND_INS: dict[str, type] = {
    "INetworkDefinition": fake._Network,
    "OnnxParser": fake._Parser,
    "IOptimizationProfile": fake._Profile,
    "IBuilderConfig": fake._Config,
    "Builder": fake._Builder,
    "Runtime": fake._Runtime,
    "ICudaEngine": Engine,
    "IExecutionContext": Context,
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


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_an_engine_of_the_shipped_model_fits_it_as_the_parser_gives_its_shapes(
    trt: ModuleType, bundle: Bundle, precision: str
) -> None:
    """An engine is loaded on a device alone; its tensors are those of the network it is built of."""
    tensors = parsed(trt, graph_bytes(bundle, precision))
    engine = SimpleNamespace(
        num_io_tensors=len(tensors), num_optimization_profiles=len(batch_profiles(bundle.manifest)),
        get_tensor_name=lambda index: list(tensors)[index], get_tensor_shape=lambda name: tensors[name].shape,
        get_tensor_dtype=lambda name: tensors[name].dtype,
    )  # fmt: skip
    assert misfit(trt, bundle.manifest, engine) is None
    assert [tuple(tensors[name].shape) for name in ("x", "ssm_0", "stem_0_out", "ssm_0_out", "logits")] == [
        (-1, -1, 12), (-1, 192, 8), (-1, 12, -1), (-1, 192, 8), (-1, 5)
    ]  # fmt: skip


@pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS)
def test_the_tests_stand_in_knows_the_shapes_that_the_parser_knows(trt: ModuleType, config: ModelConfig) -> None:
    model = recurrent_graph(random_model(config))
    real = {name: tuple(tensor.shape) for name, tensor in parsed(trt, model.SerializeToString()).items()}
    stand_in = Engine(Machine(), plan_of(model, []))
    assert real == {name: stand_in.get_tensor_shape(name) for name in real}


def parsed(trt: ModuleType, graph: bytes) -> dict[str, Any]:
    """Return the inputs and outputs of the network that a graph becomes, by name."""
    logger = complaints_of(trt).logger
    builder = trt.Builder(logger)
    network = builder.create_network(1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
    parser = trt.OnnxParser(network, logger)
    assert parser.parse(graph)
    tensors = [network.get_input(index) for index in range(network.num_inputs)]
    tensors += [network.get_output(index) for index in range(network.num_outputs)]
    keeps = (logger, builder, network, parser)  # what tensors must not outlive
    return {tensor.name: SimpleNamespace(shape=tuple(tensor.shape), dtype=tensor.dtype, of=keeps) for tensor in tensors}


@pytest.mark.parametrize("name", STAND_INS)
def test_the_tests_stand_in_has_no_calls_that_the_real_bindings_lack(trt: ModuleType, name: str) -> None:
    calls = {call for call in vars(STAND_INS[name]) if not call.startswith("_")}
    assert calls
    assert calls <= set(dir(getattr(trt, name)))
