"""`tensorrt` over a `Machine`: what builds engines and loads them, behind TensorRT's calls and checks."""

from __future__ import annotations

import enum
import json
from types import ModuleType
from typing import Any

import onnx

from tests.fake_gpu.engine import Engine, declared_shape, plan_of
from tests.fake_gpu.machine import GpuFault, Machine

MAGIC = b"ENGINE"


class Severity(enum.IntEnum):
    INTERNAL_ERROR = 0
    ERROR = 1
    WARNING = 2


class ILogger:
    """What the loggers that a user writes derive from."""

    Severity = Severity

    def __init__(self) -> None:
        self.set_up = True


def tensorrt_module(machine: Machine) -> ModuleType:
    """Return a module that does for a machine what `tensorrt` does for a GPU."""
    module: Any = ModuleType("tensorrt")
    module.__version__ = machine.tensorrt
    module.ILogger = ILogger
    module.float32 = "float32"
    module.NetworkDefinitionCreationFlag = enum.IntEnum("Flag", {"EXPLICIT_BATCH": 0, "STRONGLY_TYPED": 1})
    module.MemoryPoolType = enum.Enum("Pool", ["WORKSPACE"])
    module.ExecutionContextAllocationStrategy = enum.Enum("Strategy", ["STATIC", "ON_PROFILE_CHANGE"])
    module.BuilderFlag = enum.Enum("BuilderFlag", ["TF32"])
    module.OnnxParser = _Parser
    module.Runtime = lambda logger: _Runtime(machine, logger)
    module.Builder = lambda logger: _Builder(machine, logger)
    return module  # type: ignore[no-any-return]


class _Network:
    def __init__(self, flags: int) -> None:
        if not flags & 0b10:
            raise GpuFault("the network is not strongly typed")
        self.model: onnx.ModelProto | None = None

    @property
    def num_inputs(self) -> int:
        assert self.model is not None
        return len(self.model.graph.input)

    def get_input(self, index: int) -> Any:
        assert self.model is not None
        value = self.model.graph.input[index]
        return type("Tensor", (), {"name": value.name, "shape": declared_shape(value)})


class _Parser:
    def __init__(self, network: _Network, logger: ILogger) -> None:
        self._network, self._errors = network, list[str]()

    def parse(self, graph: bytes) -> bool:
        try:
            self._network.model = onnx.load_from_string(graph)
            onnx.checker.check_model(self._network.model)
        except Exception as error:
            self._errors.append(f"cannot be\nparsed: {type(error).__name__}")
            return False
        return True

    @property
    def num_errors(self) -> int:
        return len(self._errors)

    def get_error(self, index: int) -> Any:
        return type("Error", (), {"__str__": lambda _: self._errors[index]})()


class _Profile:
    def __init__(self) -> None:
        self.shapes: dict[str, list[tuple[int, ...]]] = {}

    def set_shape(self, name: str, low: tuple[int, ...], usual: tuple[int, ...], high: tuple[int, ...]) -> None:
        self.shapes[name] = [low, usual, high]


class _Config:
    def __init__(self, logger: Any) -> None:
        self._logger = logger
        self.profiles: list[_Profile] = []
        self.flags = {"TF32"}

    def set_memory_pool_limit(self, pool: Any, size: int) -> None:
        assert size > 0

    def clear_flag(self, flag: Any) -> None:
        self.flags.discard(flag.name)

    def add_optimization_profile(self, profile: _Profile) -> int:
        rise = (a <= b <= c for shapes in profile.shapes.values() for a, b, c in zip(*shapes, strict=True))
        if not all(rise):
            self._logger.log(Severity.ERROR, "the optimization profile\nis not valid")
            return -1
        self.profiles.append(profile)
        return len(self.profiles) - 1

    def create_timing_cache(self, known: bytes) -> Any:
        if known not in (b"", b"timings"):
            return None
        return type("Timings", (), {"serialize": lambda _: known or b"timings"})()

    def set_timing_cache(self, cache: Any, ignore_mismatch: bool) -> bool:
        return True


class _Builder:
    def __init__(self, machine: Machine, logger: Any) -> None:
        assert logger.set_up
        _start(machine, logger)
        self._machine, self._logger = machine, logger

    def create_network(self, flags: int) -> _Network:
        return _Network(flags)

    def create_builder_config(self) -> _Config:
        return _Config(self._logger)

    def create_optimization_profile(self) -> _Profile:
        return _Profile()

    def build_serialized_network(self, network: _Network, config: _Config) -> bytes | None:
        assert network.model is not None
        self._machine.builds += 1
        if config.flags:
            raise GpuFault("float32 would be TF32")
        names = {value.name for value in network.model.graph.input}
        if any(set(profile.shapes) != names for profile in config.profiles):
            raise GpuFault("a profile does not give every input its shapes")
        if not self._machine.float32_products and not _half_products(network.model):
            self._logger.log(Severity.ERROR, "Error Code 1: Cannot compile for Turing: FP32 GEMM is not supported.")
            return None
        plan = {"version": self._machine.tensorrt, "sm": self._machine.sm}
        plan |= plan_of(network.model, [profile.shapes for profile in config.profiles])
        return MAGIC + json.dumps(plan).encode()


class _Runtime:
    def __init__(self, machine: Machine, logger: Any) -> None:
        machine.require_context()
        _start(machine, logger)
        self._machine, self._logger = machine, logger

    def deserialize_cuda_engine(self, plan: bytes) -> Engine | None:
        try:
            engine = json.loads(plan.removeprefix(MAGIC))
        except ValueError:
            self._logger.log(Severity.ERROR, "Serialization assertion failed:\nmagic tag does not match")
            return None
        if engine["version"] != self._machine.tensorrt or tuple(engine["sm"]) != self._machine.sm:
            self._logger.log(Severity.ERROR, "The engine plan file is not compatible with this version or device")
            return None
        opened = Engine(self._machine, engine)
        opened.complain = lambda message: self._logger.log(Severity.ERROR, message)
        return opened


def _start(machine: Machine, logger: Any) -> None:
    """Fail as the bindings do where the library cannot start."""
    machine.loggers.append(logger)
    if machine.driver_too_old:
        logger.log(Severity.ERROR, "CUDA initialization failure with error: 35")
        raise TypeError("pybind11::init(): factory function returned nullptr")


def _half_products(model: onnx.ModelProto) -> bool:
    halves = {tensor.name for tensor in model.graph.initializer if tensor.data_type == onnx.TensorProto.FLOAT16}
    return all(node.input[1] in halves for node in model.graph.node if node.op_type in ("MatMul", "Conv"))
