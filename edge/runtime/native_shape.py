"""What the native kernel must know of a model: its dimensions from the manifest, its weights in the kernel's order.

The model is that of `trainer.model`, whose names these are; whatever is not known here is not computed natively.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import Annotated, Literal, NamedTuple

import msgspec
import numpy as np

from edge.errors import RuntimeUnavailableError
from edge.runtime.base import Float32Array, require_recurrent
from edge.runtime.manifest import Manifest, StateTensor
from edge.runtime.native_build import NAME

LOG2_E = 1.4426950408889634
NEVER = -3.0e38
"""Where a running maximum starts (`trainer.model.NEVER`)."""

Count = Annotated[int, msgspec.Meta(ge=1, le=65536)]

MAX_STAGES, PAD = 8, 16
"""As in hop.h and product.h."""


class StemStage(NamedTuple):
    """One convolution of the stem: what its state and its parameters are called, and its shape."""

    name: str
    parameter: str
    inputs: int
    width: int
    kernel: int
    stride: int


class Shape(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The `model` of a manifest, as `trainer.model.ModelConfig` writes it."""

    n_leads: Count
    n_classes: Count
    d_model: Count
    n_layers: Count
    d_state: Count
    d_conv: Count
    expand: Count
    stem_kernel: Count
    stride: Count
    residual: bool
    final_norm: bool
    pooling: Literal["mean", "mean+max"]
    pool_norm: bool
    dropout: float
    hop_samples: Count
    window_samples: Count
    vote_hops: Annotated[int, msgspec.Meta(ge=0)] = 0
    decays: Literal["free", "multiples"] = "free"
    """How they were trained; what they are the kernel sees for itself."""
    stem_layers: Annotated[list[tuple[Count, Count, Count]], msgspec.Meta(max_length=MAX_STAGES - 1)] = []
    """(width, kernel, stride) of the convolutions before the stem's last."""

    @property
    def d_inner(self) -> int:
        """Width inside a block."""
        return self.expand * self.d_model

    @property
    def dt_rank(self) -> int:
        """Rank of the step-size projection."""
        return math.ceil(self.d_model / 16)

    @property
    def stem_stages(self) -> list[StemStage]:
        """All convolutions of the stem in order; their strides multiply to the model's, or the kernel refuses them."""
        stages, inputs, stride = [], self.n_leads, self.stride
        for index, (width, kernel, step) in enumerate(self.stem_layers):
            stages.append(StemStage(f"stem_{index}", f"stem.convs.{index}", inputs, width, kernel, step))
            inputs, stride = width, max(1, stride // step)
        return [*stages, StemStage("stem", "stem.conv", inputs, self.d_model, self.stem_kernel, stride)]

    @property
    def pool_slots(self) -> int:
        """Finished hops that are pooled besides the newest."""
        return (self.vote_hops or self.window_samples // self.hop_samples) - 1

    @property
    def pooled(self) -> int:
        """Features that the head sees."""
        return self.d_model * (2 if self.pooling == "mean+max" else 1)

    def numbers(self) -> list[int]:
        """Return the shape in the order of `hop_shape` in hop.h."""
        stages = [number for stage in self.stem_stages for number in (stage.width, stage.kernel, stage.stride)]
        return [
            self.n_leads, self.n_classes, self.d_model, self.d_inner, self.d_state, self.d_conv, self.dt_rank,
            self.n_layers, self.stride, self.pool_slots,
            self.residual, self.final_norm, self.pooling == "mean+max", self.pool_norm,
            len(self.stem_stages), *stages, *[0] * (3 * MAX_STAGES - len(stages)),
        ]  # fmt: skip

    def state(self) -> list[StateTensor]:
        """Return the carried tensors in the kernel's order."""
        tensors = [
            StateTensor(stage.name, [stage.inputs, stage.kernel - stage.stride])
            for stage in self.stem_stages
            if stage.kernel > stage.stride
        ]
        for i in range(self.n_layers):
            tensors.append(StateTensor(f"conv_{i}", [self.d_inner, self.d_conv - 1]))
            tensors.append(StateTensor(f"ssm_{i}", [self.d_inner, self.d_state]))
        tensors.append(StateTensor("pool_sum", [self.pool_slots, self.d_model]))
        tensors.append(StateTensor("pool_count", [self.pool_slots]))
        if self.pooling == "mean+max":
            tensors.append(StateTensor("pool_max", [self.pool_slots, self.d_model], NEVER))
        return tensors


def shape_of(manifest: Manifest) -> Shape:
    """Read the shape of a manifest's model; raises RuntimeUnavailableError for what the kernel does not compute."""
    require_recurrent(NAME, manifest)
    try:
        shape = msgspec.convert(manifest.model, Shape)
    except msgspec.ValidationError as error:
        raise RuntimeUnavailableError(NAME, f"the manifest's model is not one the kernel computes: {error}") from None
    if (shape.n_leads, shape.n_classes, shape.stride) != (
        len(manifest.leads), len(manifest.classes), manifest.stride,
    ):  # fmt: skip
        raise RuntimeUnavailableError(NAME, "the manifest's model has other leads, classes or stride than the manifest")
    if shape.state() != manifest.state:
        raise RuntimeUnavailableError(NAME, "the manifest's state is not that of its model")
    return shape


def ordered_weights(shape: Shape, weights: Mapping[str, Float32Array]) -> list[Float32Array]:
    """Return weights in the order and layout of `hop_build` in model.c.

    Raises RuntimeUnavailableError when a tensor is missing, has another shape, or is one the kernel does not use.
    """
    expected = dict(_parameters(shape))
    if expected.keys() != weights.keys():
        odd = sorted(expected.keys() ^ weights.keys())
        raise RuntimeUnavailableError(NAME, f"the weights and the model differ in {', '.join(odd[:3])}")
    for name, dimensions in expected.items():
        if weights[name].shape != dimensions:
            raise RuntimeUnavailableError(
                NAME, f"weight {name} has shape {weights[name].shape}, the model says {dimensions}"
            )
    first = f"{shape.stem_stages[0].parameter}.weight"
    return [_laid_out(name, weights[name], first) for name in expected]


def _parameters(s: Shape) -> Iterator[tuple[str, tuple[int, ...]]]:
    """Every parameter by name, with its shape."""
    for index, stage in enumerate(s.stem_stages):
        yield f"{stage.parameter}.weight", (stage.width, stage.inputs, stage.kernel)
        yield f"{stage.parameter}.bias", (stage.width,)
        if index < len(s.stem_layers):
            yield f"stem.norms.{index}.weight", (stage.width,)
    for i in range(s.n_layers):
        if s.residual:
            yield f"norms.{i}.weight", (s.d_model,)
        block = f"blocks.{i}."
        yield block + "in_proj.weight", (2 * s.d_inner, s.d_model)
        yield block + "conv1d.weight", (s.d_inner, 1, s.d_conv)
        yield block + "conv1d.bias", (s.d_inner,)
        yield block + "x_proj.weight", (s.dt_rank + 2 * s.d_state, s.d_inner)
        yield block + "dt_proj.weight", (s.d_inner, s.dt_rank)
        yield block + "dt_proj.bias", (s.d_inner,)
        yield block + "A_log", (s.d_inner, s.d_state)
        yield block + "D", (s.d_inner,)
        yield block + "out_proj.weight", (s.d_model, s.d_inner)
    if s.final_norm:
        yield "final_norm.weight", (s.d_model,)
    if s.pool_norm:
        yield "pool_norm.weight", (s.pooled,)
        yield "pool_norm.bias", (s.pooled,)
    yield "head.weight", (s.n_classes, s.pooled)
    yield "head.bias", (s.n_classes,)


def _laid_out(name: str, weight: Float32Array, first: str) -> Float32Array:
    """Turn a parameter as the kernel reads it: channels side by side, decay instead of its logarithm.

    first: the weight of the stem's first convolution.
    """
    if name.startswith("stem.conv") and name.endswith("weight"):
        weight = weight.transpose(0, 2, 1)  # (width, taps, inputs)
        if name != first:  # whose inputs are the samples; those of the others come in padded rows
            weight = np.pad(weight, ((0, 0), (0, 0), (0, -weight.shape[2] % PAD)))
    elif name.endswith("conv1d.weight"):
        weight = weight[:, 0].T  # (K, D)
    elif name.endswith("A_log"):
        weight = (-np.exp(weight.astype(np.float64)) * LOG2_E).T.astype(np.float32)  # (N, D)
    return np.ascontiguousarray(weight)
