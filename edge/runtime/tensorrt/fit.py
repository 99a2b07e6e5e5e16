"""Whether an engine has a model's tensors: their names, types and shapes, as far as an engine knows these itself."""

from __future__ import annotations

from types import ModuleType
from typing import Any

from edge.runtime.manifest import Manifest
from edge.runtime.tensorrt.key import batch_profiles

UNKNOWN = -1
"""A size that TensorRT leaves open. Of inputs that is what the graph leaves open. Of outputs it may be more: TensorRT
does not work out that the end of a signal that is cut off is as long as it always is, before it knows the signal's."""


def misfit(trt: ModuleType, manifest: Manifest, engine: Any) -> str | None:
    """Return what of an engine does not fit a model, None where it fits.

    An output's size that the engine does not know is taken on trust here: a bucket asks again once it has set the
    shapes of the inputs.
    """
    inputs, outputs = _inputs(manifest), _outputs(manifest)
    expected = inputs | outputs
    names = [engine.get_tensor_name(index) for index in range(engine.num_io_tensors)]
    wrong = set(names) ^ set(expected)
    for name in set(names) & set(expected):
        shape = list(engine.get_tensor_shape(name))[1:]
        same = shape == inputs[name] if name in inputs else _could_be(shape, outputs[name])
        if not same or engine.get_tensor_dtype(name) != trt.float32:
            wrong.add(name)
    if wrong:
        return f"tensors {', '.join(sorted(wrong))}"
    return None if engine.num_optimization_profiles == len(batch_profiles(manifest)) else "its optimisation profiles"


def _inputs(manifest: Manifest) -> dict[str, list[int]]:
    """Return name → shape behind the batch."""
    return {"x": [UNKNOWN, len(manifest.leads)], **{tensor.name: list(tensor.shape) for tensor in manifest.state}}


def _outputs(manifest: Manifest) -> dict[str, list[int]]:
    """Return name → shape behind the batch."""
    return {
        "logits": [len(manifest.classes)],
        **{f"{tensor.name}_out": list(tensor.shape) for tensor in manifest.state},
    }


def _could_be(shape: list[int], wanted: list[int]) -> bool:
    """Whether a shape is the wanted one in all that is known of it."""
    return len(shape) == len(wanted) and all(a in (UNKNOWN, b) for a, b in zip(shape, wanted, strict=True))
