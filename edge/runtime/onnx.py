"""ONNX Runtime on the CPU: the runtime that works everywhere, and the fallback of the others."""

from __future__ import annotations

from collections.abc import Sequence
from importlib import import_module
from types import ModuleType
from typing import Any

import numpy as np

from edge.errors import BundleError, RuntimeUnavailableError
from edge.runtime.base import Float32Array, State, check_frames, sizes_of
from edge.runtime.bundle import Bundle
from edge.runtime.graph_file import read_graph
from edge.runtime.manifest import ONNX_NAME, Manifest
from edge.runtime.slots import SlotStore

NAME = "onnxruntime"
FLOAT32 = "tensor(float)"

Shapes = dict[str, list[int | None]]
"""Tensor name → its dimensions, None for one that is free."""


class OnnxRuntime:
    """Runs a recurrent bundle's graph in ONNX Runtime; see `edge.runtime.base.Runtime` for the contract.

    Raises RuntimeUnavailableError when ONNX Runtime cannot be imported and BundleError when the graph cannot be
    loaded or does not have the inputs and outputs that the manifest states.
    """

    name = NAME

    def __init__(self, bundle: Bundle, threads: int = 1) -> None:
        self.bundle = bundle
        self._session = _open_session(bundle, threads)
        _check_signature(bundle, self._session, *self.signature(bundle.manifest))
        self._slots = SlotStore(bundle.manifest.state)

    @staticmethod
    def signature(manifest: Manifest) -> tuple[Shapes, Shapes]:
        """Return the inputs and the outputs that the graph of such a manifest has."""
        states: Shapes = {tensor.name: [None, *tensor.shape] for tensor in manifest.state}
        after: Shapes = {f"{name}_out": shape for name, shape in states.items()}
        return {"x": [None, None, len(manifest.leads)], **states}, {"logits": [None, len(manifest.classes)], **after}

    def open_slot(self) -> int:
        """Reserve a slot in its initial state and return its number."""
        return self._slots.open()

    def close_slot(self, slot: int) -> None:
        """Give a slot back."""
        self._slots.close(slot)

    def reset_slot(self, slot: int) -> None:
        """Put a slot back into its initial state."""
        self._slots.reset(slot)

    def step(self, slots: Sequence[int], frames: Float32Array) -> Float32Array:
        """Advance distinct slots by frames (slots, samples, leads); return logits (slots, classes).

        Raises SignalError for frames that do not fit and for slots that are not open or named twice.
        """
        manifest = self.bundle.manifest
        check_frames(manifest, len(slots), frames)
        if not slots:
            return np.empty((0, len(manifest.classes)), dtype=np.float32)
        logits, after = self.advance(self._slots.gather(slots), np.ascontiguousarray(frames, dtype=np.float32))
        self._slots.scatter(slots, after)
        return logits

    def advance(self, state: State, frames: Float32Array) -> tuple[Float32Array, State]:
        """Take frames (slots, samples, leads) from a state; return logits (slots, classes) and the state after."""
        names = ["logits", *(f"{name}_out" for name in state)]
        logits, *after = self._session.run(names, {"x": frames, **state})
        return logits, dict(zip(state, after, strict=True))

    def save_slot(self, slot: int) -> State:
        """Return a copy of a slot's state."""
        return self._slots.save(slot)

    def load_slot(self, slot: int, state: State) -> None:
        """Put back a state that `save_slot` returned; raises SignalError when names or shapes differ."""
        self._slots.load(slot, state)

    def state_sizes(self, slot: int) -> dict[str, float]:
        """Return the root mean square of each tensor of a slot."""
        return sizes_of(self.save_slot(slot))


def import_onnxruntime() -> ModuleType:
    """Import ONNX Runtime, or raise RuntimeUnavailableError with what to do."""
    try:
        return import_module("onnxruntime")
    except ImportError as error:
        raise RuntimeUnavailableError(NAME, f"{error}; install it with `pip install onnxruntime`") from None


def session_options(ort: ModuleType, threads: int) -> Any:
    """Return options for small, frequent runs beside other work.

    Idle threads sleep instead of spinning, which would burn the cores that the daemon itself needs between two hops;
    nodes run one after another, since the graph is a chain.
    """
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.execution_mode = ort.ExecutionMode.ORT_SEQUENTIAL
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_ALL
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    options.log_severity_level = 3  # errors only: its warnings are about its own optimiser
    return options


def _open_session(bundle: Bundle, threads: int) -> Any:
    ort = import_onnxruntime()
    graph = read_graph(bundle, ONNX_NAME)
    options = session_options(ort, threads)
    try:
        return ort.InferenceSession(graph, options, providers=["CPUExecutionProvider"])
    except Exception as error:  # ONNX Runtime's exceptions have no common base of their own
        reason = str(error).strip().splitlines()[0]
        raise BundleError(bundle.path, f"{ONNX_NAME} cannot be loaded by ONNX Runtime: {reason}") from None


def _check_signature(bundle: Bundle, session: Any, inputs: Shapes, outputs: Shapes) -> None:
    problems = [
        *_differences("input", inputs, session.get_inputs()),
        *_differences("output", outputs, session.get_outputs()),
    ]
    if problems:
        raise BundleError(bundle.path, f"{ONNX_NAME} and the manifest disagree: " + "; ".join(problems))


def _differences(kind: str, expected: Shapes, found: Sequence[Any]) -> list[str]:
    """Say, one line each, where a graph's tensors differ from what is expected."""
    graph = {node.name: node for node in found}
    problems = [f"{kind} {name} is missing from the graph" for name in expected if name not in graph]
    problems += [f"the graph has an unknown {kind} {name}" for name in graph if name not in expected]
    for name in expected.keys() & graph.keys():
        node = graph[name]
        shape = [size if isinstance(size, int) else None for size in node.shape]
        if node.type != FLOAT32 or shape != expected[name]:
            want = ["any" if size is None else size for size in expected[name]]
            problems.append(f"{kind} {name} is {node.type} {node.shape}, the manifest says float32 {want}")
    return sorted(problems)
