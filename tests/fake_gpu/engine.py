"""An engine over a `Machine`: an ONNX graph that ONNX Runtime runs, behind the calls and checks of TensorRT's."""

from __future__ import annotations

import base64
from collections.abc import Callable
from typing import Any

import numpy as np
import onnx
import onnxruntime

from tests.fake_gpu.machine import GpuFault, Machine

Shapes = dict[str, tuple[int, ...]]


class Engine:
    """A deserialised engine."""

    def __init__(self, machine: Machine, plan: dict[str, Any]) -> None:
        self.machine = machine
        self.complain: Callable[[str], None] = lambda message: None
        """How it tells its logger of an error."""
        model = onnx.load_from_string(base64.b64decode(plan["graph"]))
        self.profiles = [{name: [tuple(s) for s in shapes] for name, shapes in p.items()} for p in plan["profiles"]]
        self.inputs: Shapes = {value.name: declared_shape(value) for value in model.graph.input}
        self.outputs: Shapes = {value.name: declared_shape(value) for value in model.graph.output}
        self.unknown = tails_of_undivided(model.graph)
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
        shape = (self.inputs | self.outputs)[name]
        return (*shape[:-1], -1) if name in self.unknown else shape

    def get_tensor_dtype(self, name: str) -> str:
        return "float32"

    def create_execution_context(self, strategy: Any) -> Context | None:
        assert strategy.name == "ON_PROFILE_CHANGE"
        self.machine.require_context()
        self.machine.contexts_left -= 1
        if self.machine.contexts_left < 0:
            self.complain("Error Code 2:\nOutOfMemory (requested 1234 bytes)")
            return None
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

    def get_tensor_shape(self, name: str) -> tuple[int, ...]:
        if set(self._shapes) != set(self._engine.inputs):
            return self._shapes.get(name) or self._engine.get_tensor_shape(name)
        if name in self._shapes:
            return self._shapes[name]
        (_, *rest), (batch, *_) = self._engine.outputs[name], self._shapes["x"]
        return (batch, *rest)

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


def plan_of(model: onnx.ModelProto, profiles: list[dict[str, list[tuple[int, ...]]]]) -> dict[str, Any]:
    """Return what an engine of a graph is made of."""
    return {"profiles": profiles, "graph": base64.b64encode(model.SerializeToString()).decode()}


def tails_of_undivided(graph: onnx.GraphProto) -> set[str]:
    """Return the outputs whose length TensorRT's parser does not work out: the tails of what has a row per sample.

    Those of what a stride has divided it does; `tests/integration/test_rtx_builds.py` holds this against it.
    """
    undivided, cut = {"x"}, set[str]()
    for node in graph.node:
        strides = [list(attribute.ints) for attribute in node.attribute if attribute.name == "strides"]
        if undivided & set(node.input) and not any(stride > 1 for each in strides for stride in each):
            undivided |= set(node.output)
        if node.op_type == "Slice" or (node.op_type == "Transpose" and node.input[0] in cut):
            cut |= set(node.output)
    return undivided & cut & {value.name for value in graph.output}


def declared_shape(value: onnx.ValueInfoProto) -> tuple[int, ...]:
    """Return the shape that a graph states for an input or output, -1 for what it leaves open."""
    return tuple(dim.dim_value if dim.HasField("dim_value") else -1 for dim in value.type.tensor_type.shape.dim)
