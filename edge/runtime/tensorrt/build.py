"""Building an engine with the Python API that TensorRT 10.3 to 11 and TensorRT for RTX have in common.

The network is strongly typed: its precisions are the casts in the graph, since 11 has no flag for them any more.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from types import ModuleType
from typing import Any

from edge.errors import EcgEdgeError
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
    complaints: list[str] = []
    logger = engine_logger(trt, complaints)
    try:
        builder = trt.Builder(logger)
    except TypeError:  # what the bindings make of a library that cannot start
        raise _failure(complaints) from None
    network = builder.create_network(1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
    parser = trt.OnnxParser(network, logger)
    if not parser.parse(graph):
        raise _failure([str(parser.get_error(index)) for index in range(parser.num_errors)] or complaints)
    config = builder.create_builder_config()
    _configure(trt, config, sm_name)
    for profile in profiles:
        config.add_optimization_profile(_optimisation_profile(builder, network, profile))
    cache = None
    if timings is not None:
        cache = config.create_timing_cache(timings)
        config.set_timing_cache(cache, True)
    engine = builder.build_serialized_network(network, config)
    if engine is None:
        raise _failure(complaints)
    return BuiltEngine(bytes(engine), b"" if cache is None else bytes(cache.serialize()))


def engine_logger(trt: ModuleType, complaints: list[str]) -> Any:
    """Return a logger for TensorRT that keeps errors in `complaints` and drops the rest."""
    base: Any = trt.ILogger
    worst_to_keep = int(trt.ILogger.Severity.ERROR)

    class _Complaints(base):  # type: ignore[misc]  # its base is known only once TensorRT is imported
        def __init__(self) -> None:
            base.__init__(self)  # the bindings insist on it, by this form

        def log(self, severity: Any, message: str) -> None:
            if int(severity) <= worst_to_keep:
                complaints.append(message)

    return _Complaints()


def _configure(trt: ModuleType, config: Any, sm_name: str | None) -> None:
    config.set_memory_pool_limit(trt.MemoryPoolType.WORKSPACE, WORKSPACE_BYTES)
    config.clear_flag(trt.BuilderFlag.TF32)  # float32 means float32: TF32 keeps 10 bits of a weight
    if sm_name is not None:
        config.num_compute_capabilities = 1
        config.set_compute_capability(getattr(trt.ComputeCapability, sm_name), 0)
        config.set_flag(trt.BuilderFlag.REQUIRE_USER_ALLOCATION)


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


def _failure(complaints: Sequence[str]) -> EngineBuildError:
    """The last complaint is the one that ended the build."""
    said = " ".join(complaints[-1].split()) if complaints else "TensorRT does not say why"
    if "FP32 GEMM is not supported" in said:
        said = f"this compiler has no float32 matrix product for the device; take --precision fp16 ({said})"
    return EngineBuildError(said)
