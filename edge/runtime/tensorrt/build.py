"""Building an engine with the Python API that TensorRT 10.3 to 11 and TensorRT for RTX have in common.

The network is strongly typed: its precisions are the casts in the graph, since 11 has no flag for them any more.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from types import ModuleType
from typing import Any

from edge.errors import EcgEdgeError
from edge.runtime.tensorrt.complaints import complaints_of
from edge.runtime.tensorrt.key import BatchProfile

WORKSPACE_BYTES = 512 * 1024 * 1024
"""What a kernel may use beside its tensors: a Jetson shares its memory with everything else."""


class EngineBuildError(EcgEdgeError):
    """A graph that this TensorRT does not make an engine of."""

    def __init__(self, problem: str) -> None:
        self.problem = problem
        super().__init__(f"the engine cannot be built: {problem}")


@dataclass(frozen=True)
class BuiltEngine:
    """An engine as bytes, and what the build has measured for the next one (empty unless that was asked for)."""

    engine: bytes
    timings: bytes


def build_engine(
    trt: ModuleType,
    graph: bytes,
    profiles: Sequence[BatchProfile],
    timings: bytes | None = None,
    sm_name: str | None = None,
) -> BuiltEngine:
    """Build an engine of an ONNX graph with one optimisation profile for each of `profiles`.

    timings: what earlier builds have measured, None to keep none. sm_name: the compute capability to build for, such as
    "SM86", where there is no device; only TensorRT for RTX can, and then refuses an engine that a CUDA graph cannot
    record. Raises EngineBuildError.
    """
    complaints = complaints_of(trt)
    complaints.forget()
    try:
        builder = trt.Builder(complaints.logger)
    except TypeError:  # what the bindings make of a library that cannot start
        raise _failure(complaints.last) from None
    network = builder.create_network(1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
    parser = trt.OnnxParser(network, complaints.logger)
    if not parser.parse(graph):
        errors = [" ".join(str(parser.get_error(index)).split()) for index in range(parser.num_errors)]
        raise _failure(errors[-1] if errors else complaints.last)
    config = builder.create_builder_config()
    _configure(trt, config, sm_name)
    for profile in profiles:
        if config.add_optimization_profile(_optimisation_profile(builder, network, profile)) < 0:
            raise _failure(complaints.last)
    cache = None if timings is None else _timing_cache(config, timings)
    engine = builder.build_serialized_network(network, config)
    if engine is None:
        raise _failure(complaints.last)
    return BuiltEngine(bytes(engine), b"" if cache is None else bytes(cache.serialize()))


def _configure(trt: ModuleType, config: Any, sm_name: str | None) -> None:
    config.set_memory_pool_limit(trt.MemoryPoolType.WORKSPACE, WORKSPACE_BYTES)
    config.clear_flag(trt.BuilderFlag.TF32)  # float32 means float32: TF32 keeps 10 bits of a weight
    if sm_name is not None:
        config.num_compute_capabilities = 1
        config.set_compute_capability(getattr(trt.ComputeCapability, sm_name), 0)
        config.set_flag(trt.BuilderFlag.REQUIRE_USER_ALLOCATION)


def _timing_cache(config: Any, timings: bytes) -> Any:
    """Let the build use what earlier ones measured, or measure anew where that is of no use; return where it notes."""
    cache = config.create_timing_cache(timings)
    if cache is None:
        cache = config.create_timing_cache(b"")
    if cache is not None:
        config.set_timing_cache(cache, True)
    return cache


def _optimisation_profile(builder: Any, network: Any, profile: BatchProfile) -> Any:
    made = builder.create_optimization_profile()
    for index in range(network.num_inputs):
        tensor = network.get_input(index)
        _, *rest = tuple(tensor.shape)
        shapes = [
            (profile.batch, *(samples if size < 0 else size for size in rest))
            for samples in (profile.shortest, profile.usual, profile.longest)
        ]
        made.set_shape(tensor.name, *shapes)
    return made


def _failure(said: str) -> EngineBuildError:
    if "FP32 GEMM is not supported" in said:
        said = f"this compiler has no float32 matrix product for the device; take --precision fp16 ({said})"
    return EngineBuildError(said)
