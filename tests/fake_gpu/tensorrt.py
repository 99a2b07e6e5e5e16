"""`tensorrt` over a `Machine`: engines are ONNX graphs that ONNX Runtime runs, behind TensorRT's calls and checks."""

from __future__ import annotations

import base64
import enum
import json
from types import ModuleType
from typing import Any

import numpy as np
import onnx
import onnxruntime

from tests.fake_gpu.machine import GpuFault, Machine

MAGIC = b"ENGINE"
Shapes = dict[str, tuple[int, ...]]


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
        return type("Tensor", (), {"name": value.name, "shape": _shape(value)})


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
        if not all(a <= b <= c for a, b, c in zip(low, usual, high, strict=True)):
            raise GpuFault(f"the shapes of {name} do not rise: {low} {usual} {high}")
        self.shapes[name] = [low, usual, high]


class _Config:
    def __init__(self) -> None:
        self.profiles: list[_Profile] = []
        self.flags = {"TF32"}

    def set_memory_pool_limit(self, pool: Any, size: int) -> None:
        assert size > 0

    def clear_flag(self, flag: Any) -> None:
        self.flags.discard(flag.name)

    def add_optimization_profile(self, profile: _Profile) -> int:
        self.profiles.append(profile)
        return len(self.profiles) - 1

    def create_timing_cache(self, known: bytes) -> Any:
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
        return _Config()

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
        plan = {
            "version": self._machine.tensorrt,
            "sm": self._machine.sm,
            "profiles": [profile.shapes for profile in config.profiles],
            "graph": base64.b64encode(network.model.SerializeToString()).decode(),
        }
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
        return Engine(self._machine, engine)


class Engine:
    """A deserialised engine."""

    def __init__(self, machine: Machine, plan: dict[str, Any]) -> None:
        self.machine = machine
        model = onnx.load_from_string(base64.b64decode(plan["graph"]))
        self.profiles = [{name: [tuple(s) for s in shapes] for name, shapes in p.items()} for p in plan["profiles"]]
        self.inputs: Shapes = {value.name: _shape(value) for value in model.graph.input}
        self.outputs: Shapes = {value.name: _shape(value) for value in model.graph.output}
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads, options.log_severity_level = 1, 3
        self.session = onnxruntime.InferenceSession(
            model.SerializeToString(), options, providers=["CPUExecutionProvider"]
        )

    @property
    def num_io_tensors(self) -> int:
        return len(self.inputs) + len(self.outputs)

    @property
    def num_optimization_profiles(self) -> int:
        return len(self.profiles)

    def get_tensor_name(self, index: int) -> str:
        return [*self.inputs, *self.outputs][index]

    def get_tensor_shape(self, name: str) -> tuple[int, ...]:
        return (self.inputs | self.outputs)[name]

    def get_tensor_dtype(self, name: str) -> str:
        return "float32"

    def create_execution_context(self) -> Context:
        self.machine.require_context()
        return Context(self)


class Context:
    """An execution context: shapes and addresses first, then runs."""

    def __init__(self, engine: Engine) -> None:
        self._engine, self._machine = engine, engine.machine
        self._profile: int | None = None
        self._shapes: Shapes = {}
        self._addresses: dict[str, int] = {}
        self._version, self._warm = 0, False

    def set_optimization_profile_async(self, index: int, stream: int) -> bool:
        self._machine.stream(stream)
        self._profile = index
        self._changed()
        return 0 <= index < len(self._engine.profiles)

    def set_input_shape(self, name: str, shape: tuple[int, ...]) -> bool:
        if self._profile is None:
            raise GpuFault("a shape before a profile")
        low, _, high = self._engine.profiles[self._profile].get(name, [(), (), ()])
        fits = len(shape) == len(low) and all(a <= b <= c for a, b, c in zip(low, shape, high, strict=True))
        self._shapes[name] = shape
        self._changed()
        return fits

    def set_tensor_address(self, name: str, address: int) -> bool:
        if address % 256:
            raise GpuFault(f"{name} is not aligned to 256 bytes")
        self._addresses[name] = address
        self._changed()
        return name in self._engine.inputs | self._engine.outputs

    def execute_async_v3(self, handle: int) -> bool:
        stream = self._machine.stream(handle)
        if set(self._shapes) != set(self._engine.inputs):
            return False
        if set(self._addresses) != {*self._engine.inputs, *self._engine.outputs}:
            raise GpuFault("a tensor has no address")
        if stream.recording is not None and not (self._warm and self._machine.recordable):
            stream.recording_failed = True
            return False
        if stream.recording is None:
            self._machine.executions += 1
        self._warm = True
        version, shapes, addresses = self._version, dict(self._shapes), dict(self._addresses)

        def work() -> None:
            if version != self._version:
                raise GpuFault("a graph of a context that has changed since it was recorded")
            self._run(shapes, addresses)

        self._machine.submit(stream, work)
        return True

    def _run(self, shapes: Shapes, addresses: dict[str, int]) -> None:
        assert self._profile is not None
        self._machine.profiles_used.append(self._profile)
        feed = {name: self._machine.floats_at(addresses[name], shape) for name, shape in shapes.items()}
        batch = shapes["x"][0]
        results = self._engine.session.run(list(self._engine.outputs), {name: v.copy() for name, v in feed.items()})
        for (name, shape), result in zip(self._engine.outputs.items(), results, strict=True):
            target = self._machine.floats_at(addresses[name], (batch, *shape[1:]))
            if any(np.shares_memory(target, source) for source in feed.values()):
                raise GpuFault(f"{name} is written over an input")
            target[:] = result

    def _changed(self) -> None:
        self._version += 1
        self._warm = False


def _start(machine: Machine, logger: Any) -> None:
    """Fail as the bindings do where the library cannot start."""
    if machine.driver_too_old:
        logger.log(Severity.ERROR, "CUDA initialization failure with error: 35")
        raise TypeError("pybind11::init(): factory function returned nullptr")


def _shape(value: onnx.ValueInfoProto) -> tuple[int, ...]:
    return tuple(dim.dim_value if dim.HasField("dim_value") else -1 for dim in value.type.tensor_type.shape.dim)


def _half_products(model: onnx.ModelProto) -> bool:
    halves = {tensor.name for tensor in model.graph.initializer if tensor.data_type == onnx.TensorProto.FLOAT16}
    return all(node.input[1] in halves for node in model.graph.node if node.op_type in ("MatMul", "Conv"))
