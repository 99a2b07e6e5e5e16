"""The model as one recurrent ONNX graph, written node by node: states go in and come out, batch and length are dynamic.

`torch.onnx` unrolls the scan, so its graphs are long, slow to make and fixed in length. Here one ONNX `Scan` per layer
walks over the frames of a hop. Measured in ONNX Runtime on one core (16 streams × 100 samples, default model; the
figures of `tests/benchmarks/bench_runtime.py`), what makes it quick is

- frames first: (L, B, …) is what Scan walks along, so that it has nothing to transpose,
- d_state before d_inner inside the body: broadcasts and sums then run over long contiguous rows,
- exp(Δ·A) inside the body, where it stays in the cache, rather than for all frames before it,
- the depthwise convolution as d_conv shifted products: no im2col, no transposes.

The body sums products with ReduceSum(Mul): a MatMul there does not compile in float16 in TensorRT. Nothing is summed in
log space, which overflows at large Δ.

Dimension letters are those of `trainer.model`.
"""

from __future__ import annotations

import numpy as np
import onnx
import torch
from numpy.typing import NDArray

from edge.errors import EcgEdgeError
from export.builder import Dimension, GraphBuilder, finish
from trainer.model import EcgMamba, MambaBlock, ModelConfig, RMSNorm, state_layout

BATCH, SAMPLES = "batch", "samples"


class ExportError(EcgEdgeError):
    """A model that cannot be written as a graph."""


def recurrent_graph(model: EcgMamba) -> onnx.ModelProto:
    """Write the model as a recurrent ONNX graph.

    Inputs: `x` (batch, samples, leads), samples a multiple of the stride, and every tensor of `state_layout`.
    Outputs: `logits` (batch, classes) and every state as NAME_out. Raises ExportError for a shape without state to
    carry (a window of a single hop, a convolution of one tap).
    """
    _check(model.config)
    g = GraphBuilder()
    after: dict[str, str] = {}
    frames = _write_stem(g, model, after)  # (L, B, M)
    for index in range(model.config.n_layers):
        frames = _write_layer(g, model, index, frames, after)
    features = _write_norm(g, model.final_norm, frames)
    logits = _write_head(g, model, _write_pool(g, model.config, features, after))
    g.name_output(logits, "logits")
    for name, value in after.items():
        g.name_output(value, f"{name}_out")
    return finish(g.graph("ecg_mamba", _inputs(model.config), _outputs(model.config)), "ecg-edge recurrent classifier")


def _check(config: ModelConfig) -> None:
    if config.pool_slots < 1:
        raise ExportError(f"a window of {config.window_samples} samples needs at least two hops, shorten hop_samples")
    if config.d_conv < 2:
        raise ExportError(f"d_conv is {config.d_conv}: a recurrent graph needs at least 2")


def _inputs(config: ModelConfig) -> dict[str, list[Dimension]]:
    states: dict[str, list[Dimension]] = {name: [BATCH, *shape] for name, (shape, _) in state_layout(config).items()}
    return {"x": [BATCH, SAMPLES, config.n_leads], **states}


def _outputs(config: ModelConfig) -> dict[str, list[Dimension]]:
    states: dict[str, list[Dimension]] = {
        f"{name}_out": [BATCH, *shape] for name, (shape, _) in state_layout(config).items()
    }
    return {"logits": [BATCH, config.n_classes], **states}


def _write_stem(g: GraphBuilder, model: EcgMamba, after: dict[str, str]) -> str:
    """x (B, T, leads) → frames (L, B, M)."""
    inputs, stem = g.op("Transpose", "x", perm=[0, 2, 1]), model.stem  # (B, leads, T)
    for stage, conv, norm in zip(stem.stages, [*stem.convs, stem.conv], [*stem.norms, None], strict=True):
        assert isinstance(conv, torch.nn.Conv1d)
        if stage.tail:
            inputs = g.op("Concat", stage.name, inputs, axis=2)
            after[stage.name] = g.cut(inputs, 2, -stage.tail)
        weight, bias = g.floats(_array(conv.weight)), g.floats(_array(_present(conv.bias)))
        inputs = g.op("Conv", inputs, weight, bias, kernel_shape=[stage.kernel], strides=[stage.stride])
        if norm is not None:
            normed = _write_norm(g, norm, g.op("Transpose", inputs, perm=[0, 2, 1]))
            inputs = g.op("Transpose", g.silu(normed), perm=[0, 2, 1])
    return g.op("Transpose", inputs, perm=[2, 0, 1])


def _write_layer(g: GraphBuilder, model: EcgMamba, index: int, frames: str, after: dict[str, str]) -> str:
    block = model.blocks[index]
    assert isinstance(block, MambaBlock)
    mixed = _write_block(g, block, index, _write_norm(g, model.norms[index], frames), after)
    return g.op("Add", frames, mixed) if model.config.residual else mixed


def _write_norm(g: GraphBuilder, norm: torch.nn.Module, x: str) -> str:
    return g.rms_norm(x, _array(norm.weight), norm.eps) if isinstance(norm, RMSNorm) else x


def _write_block(g: GraphBuilder, block: MambaBlock, index: int, x: str, after: dict[str, str]) -> str:
    """A Mamba mixer on x (L, B, M), equations as in `MambaBlock.forward`."""
    d_inner = block.D.shape[0]
    projected = g.linear(x, _array(block.in_proj.weight))
    signal, gate = g.ops("Split", [projected, g.ints(d_inner, d_inner)], 2, axis=2)  # (L, B, D) each
    u = _write_conv(g, block, f"conv_{index}", signal, after)
    low_rank, b, c = g.ops("Split", [g.linear(u, _array(block.x_proj.weight)), g.ints(*block.split)], 3, axis=2)
    dt = g.op("Softplus", g.linear(low_rank, _array(block.dt_proj.weight), _array(block.dt_proj.bias)))  # (L, B, D)
    y = _write_scan(g, block, f"ssm_{index}", (dt, g.op("Mul", dt, u), b, c), after)
    y = g.op("Add", y, g.op("Mul", u, g.floats(_array(block.D))))
    return g.linear(g.op("Mul", y, g.silu(gate)), _array(block.out_proj.weight))


def _write_conv(g: GraphBuilder, block: MambaBlock, name: str, signal: str, after: dict[str, str]) -> str:
    """The causal depthwise convolution and its SiLU, signal (L, B, D) → (L, B, D)."""
    taps = _array(block.conv1d.weight)[:, 0]  # (D, K)
    padded = g.op("Concat", g.op("Transpose", name, perm=[2, 0, 1]), signal, axis=0)  # (K-1+L, B, D)
    after[name] = g.op("Transpose", g.cut(padded, 0, -(block.d_conv - 1)), perm=[1, 2, 0])
    total = g.floats(_array(_present(block.conv1d.bias)))
    for k in range(block.d_conv):
        oldest = k - (block.d_conv - 1)  # 0 for the newest tap
        shifted = g.cut(padded, 0, k, oldest) if oldest else g.cut(padded, 0, k)
        total = g.op("Add", g.op("Mul", shifted, g.floats(taps[:, k])), total)
    return g.silu(total)


def _write_scan(
    g: GraphBuilder, block: MambaBlock, name: str, scanned: tuple[str, str, str, str], after: dict[str, str]
) -> str:
    """The selective scan: Δ and Δ·u (L, B, D), b and c (L, B, N) → y (L, B, D) without the D·u term."""
    dt, du, b, c = scanned
    rows = [g.unsqueeze(dt, 2), g.unsqueeze(du, 2), g.unsqueeze(b, 3), g.unsqueeze(c, 3)]
    last, y = g.ops(
        "Scan",
        [g.op("Transpose", name, perm=[0, 2, 1]), *rows],
        2,
        body=_scan_body(block, name),
        num_scan_inputs=len(rows),
    )
    after[name] = g.op("Transpose", last, perm=[0, 2, 1])
    return y


def _scan_body(block: MambaBlock, name: str) -> onnx.GraphProto:
    """One frame: h ← exp(Δ·A)·h + (Δ·u)·b, y = c·h (eq. 2 with zero-order hold on A); h is (B, N, D) in here."""
    d_inner, d_state = block.A_log.shape
    g = GraphBuilder(f"{name}_")
    before, dt, du, b, c, now, y = (f"{name}_{part}" for part in ("h", "dt", "du", "b", "c", "h_out", "y"))
    decay = g.op("Exp", g.op("Mul", dt, g.floats(_array(-torch.exp(block.A_log)).T)))
    state_now = g.op("Add", g.op("Mul", decay, before), g.op("Mul", du, b))
    g.name_output(g.sum(g.op("Mul", state_now, c), 1), y)
    g.name_output(state_now, now)
    full: list[Dimension] = [BATCH, d_state, d_inner]
    row: list[Dimension] = [BATCH, 1, d_inner]
    column: list[Dimension] = [BATCH, d_state, 1]
    inputs = {before: full, dt: row, du: row, b: column, c: column}
    return g.graph(f"{name}_step", inputs, {now: full, y: [BATCH, d_inner]})


def _write_pool(g: GraphBuilder, config: ModelConfig, features: str, after: dict[str, str]) -> str:
    """Pool features (L, B, M) with the finished hops of the window, as `EcgMamba.pool` does."""
    total = g.sum(features, 0)  # (B, M)
    count = _frame_count(g, features)  # (B, 1)
    seen = g.op("Add", g.sum("pool_count", 1, keepdims=True), count)
    mean = g.op("Div", g.op("Add", g.sum("pool_sum", 1), total), seen)
    after["pool_sum"] = _push(g, "pool_sum", g.unsqueeze(total, 1))
    after["pool_count"] = _push(g, "pool_count", count)
    if config.pooling == "mean":
        return mean
    highest = g.op("ReduceMax", features, axes=[0], keepdims=0)
    if config.pooling == "mean+peaks":
        after["pool_peak"] = _push(g, "pool_peak", g.unsqueeze(highest, 1))
        hops = g.op("Add", g.sum(g.op("Sign", "pool_count"), 1, keepdims=True), g.floats([1.0]))
        peaks = g.op("Add", g.sum("pool_peak", 1), highest)
        return g.op("Concat", mean, g.op("Div", peaks, hops), axis=1)
    after["pool_max"] = _push(g, "pool_max", g.unsqueeze(highest, 1))
    past = g.op("ReduceMax", "pool_max", axes=[1], keepdims=0)
    return g.op("Concat", mean, g.op("Max", past, highest), axis=1)


def _frame_count(g: GraphBuilder, features: str) -> str:
    """The number of frames of this hop as a float, once per stream: (B, 1)."""
    shape = g.op("Shape", features)  # L, B, M
    frames = g.op("Cast", g.cut(shape, 0, 0, 1), to=onnx.TensorProto.FLOAT)
    return g.op("Expand", frames, g.op("Concat", g.cut(shape, 0, 1, 2), g.ints(1), axis=0))


def _push(g: GraphBuilder, name: str, newest: str) -> str:
    """Drop the oldest finished hop, append the newest."""
    return g.op("Concat", g.cut(name, 1, 1), newest, axis=1)


def _write_head(g: GraphBuilder, model: EcgMamba, pooled: str) -> str:
    norm = model.pool_norm
    if isinstance(norm, torch.nn.LayerNorm):
        weight, bias = g.floats(_array(norm.weight)), g.floats(_array(norm.bias))
        pooled = g.op("LayerNormalization", pooled, weight, bias, axis=-1, epsilon=norm.eps)
    return g.linear(pooled, _array(model.head.weight), _array(model.head.bias))


def _array(tensor: torch.Tensor) -> NDArray[np.float32]:
    return tensor.detach().to("cpu", torch.float32).numpy()


def _present(bias: torch.Tensor | None) -> torch.Tensor:
    assert bias is not None, "every convolution of this model has a bias"
    return bias
