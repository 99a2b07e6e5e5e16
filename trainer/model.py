"""The causal Mamba classifier: one forward pass serves training on crops and streaming with carried state.

Dimension letters in shape comments:
  B batch · T samples · L frames (T / stride) · M d_model · D d_inner = expand · d_model · N d_state · K d_conv
  R dt_rank · P pool slots (hops that are pooled but one) · C classes

The block's parameters carry the names and shapes of `mamba_ssm.Mamba`. Equations: Gu & Dao 2023, arXiv:2312.00752.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from trainer.mixer import convolve, gate
from trainer.scan import selective_scan

State = dict[str, Tensor]
"""Carried tensors by name, each (B, …); the names are the ONNX graph's inputs."""

"""Carried tensors of the window, not of the encoder."""

NEVER = -3.0e38
"""Where a running maximum starts: finite, because infinities do not survive a product with zero."""


@dataclass(frozen=True)
class ModelConfig:
    """The shape of a model; everything a checkpoint or manifest needs to build it again."""

    n_leads: int = 12
    n_classes: int = 5
    d_model: int = 96
    n_layers: int = 4
    d_state: int = 16
    d_conv: int = 4
    expand: int = 2
    decays: Literal["free", "multiples"] = "free"
    """How a channel's states forget: each at a rate of its own, or at 1, 2, 3 … times that of the first, as Mamba
    begins. Runtimes then find the powers of a step by multiplying, and need no exponential for each."""
    stem_layers: tuple[tuple[int, int, int], ...] = ()
    """(width, kernel, stride) of the convolutions before the stem's last, each with a norm and a SiLU after it."""
    stem_kernel: int = 8
    """Of the stem's last convolution."""
    stride: int = 4
    """Samples per frame: of all the stem's convolutions together."""
    residual: bool = True
    final_norm: bool = True
    pooling: Literal["mean", "mean+max", "mean+peaks"] = "mean+max"
    """What a window is boiled down to: the mean of its features, and their maximum or the mean of its hops' maxima."""
    pool_norm: bool = False
    dropout: float = 0.2
    hop_samples: int = 100
    window_samples: int = 1000
    vote_hops: int = 0
    """Hops that make a vote; a window's score is the mean of its votes (`trainer.votes`). 0: all hops make one."""

    def __post_init__(self) -> None:
        if self.stride % math.prod(stride for _, _, stride in self.stem_layers):
            raise ValueError(f"stride {self.stride} is no multiple of the strides of stem_layers")
        if self.vote_hops and not 2 <= self.vote_hops <= self.window_hops:
            raise ValueError(f"vote_hops is {self.vote_hops}; it must be 0, or from 2 to a window's {self.window_hops}")

    @property
    def d_inner(self) -> int:
        """Width inside a block."""
        return self.expand * self.d_model

    @property
    def dt_rank(self) -> int:
        """Rank of the step-size projection (mamba_ssm's "auto")."""
        return math.ceil(self.d_model / 16)

    @property
    def stem_stages(self) -> tuple[StemStage, ...]:
        """All convolutions of the stem in order."""
        stages: list[StemStage] = []
        inputs, last_stride = self.n_leads, self.stride
        for index, (width, kernel, stride) in enumerate(self.stem_layers):
            stages.append(StemStage(f"stem_{index}", inputs, width, kernel, stride))
            inputs, last_stride = width, last_stride // stride
        return (*stages, StemStage("stem", inputs, self.d_model, self.stem_kernel, last_stride))

    @property
    def hop_frames(self) -> int:
        """Frames of a hop."""
        return self.hop_samples // self.stride

    @property
    def window_hops(self) -> int:
        """Hops of a window."""
        return self.window_samples // self.hop_samples

    @property
    def pool_slots(self) -> int:
        """Finished hops that are pooled besides the newest."""
        return (self.vote_hops or self.window_hops) - 1


class StemStage(NamedTuple):
    """One causal convolution of the stem; its state is named for it."""

    name: str
    inputs: int
    width: int
    kernel: int
    stride: int

    @property
    def tail(self) -> int:
        """How many inputs it carries from one hop to the next."""
        return max(0, self.kernel - self.stride)


class RMSNorm(nn.Module):
    """Root-mean-square normalisation over the last axis (Zhang & Sennrich 2019)."""

    def __init__(self, d_model: int, eps: float = 1e-5) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(d_model))
        self.eps = eps

    def forward(self, x: Tensor) -> Tensor:
        return x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + self.eps) * self.weight


class Stem(nn.Module):
    """Causal strided convolutions: frame j sees samples up to stride·j + stride - 1. Each carries its last inputs."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        *earlier, last = self.stages = config.stem_stages
        self.convs = nn.ModuleList(nn.Conv1d(s.inputs, s.width, s.kernel, stride=s.stride) for s in earlier)
        self.norms = nn.ModuleList(RMSNorm(s.width) for s in earlier)
        self.conv = nn.Conv1d(last.inputs, last.width, last.kernel, stride=last.stride)

    def forward(self, x: Tensor, state: State) -> tuple[Tensor, State]:
        """x (B, T, leads) → frames (B, L, M), and the tails after them."""
        after: State = {}
        for stage, conv, norm in zip(self.stages, [*self.convs, self.conv], [*self.norms, None], strict=True):
            inputs = x.transpose(1, 2)  # (B, channels, T)
            if stage.tail:
                inputs = torch.cat([state[stage.name], inputs], dim=2)
                after[stage.name] = inputs[:, :, inputs.shape[2] - stage.tail :]
            x = conv(inputs).transpose(1, 2)  # (B, T / stride, width)
            if norm is not None:
                x = F.silu(norm(x))
        return x, after


class MambaBlock(nn.Module):
    """A Mamba-1 mixer with its convolution tail and SSM state passed in and out."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        d_inner, d_state, dt_rank = config.d_inner, config.d_state, config.dt_rank
        self.d_conv, self.split, self.decays = config.d_conv, (dt_rank, d_state, d_state), config.decays
        self.in_proj = nn.Linear(config.d_model, 2 * d_inner, bias=False)
        self.conv1d = nn.Conv1d(d_inner, d_inner, config.d_conv, groups=d_inner)
        self.x_proj = nn.Linear(d_inner, dt_rank + 2 * d_state, bias=False)
        self.dt_proj = nn.Linear(dt_rank, d_inner)
        self.A_log = nn.Parameter(torch.log(torch.arange(1.0, d_state + 1).repeat(d_inner, 1)))
        self.D = nn.Parameter(torch.ones(d_inner))
        self.out_proj = nn.Linear(d_inner, config.d_model, bias=False)
        self._initialise_dt(dt_rank)

    def _initialise_dt(self, dt_rank: int, dt_min: float = 1e-3, dt_max: float = 0.1) -> None:
        """Start the step sizes log-uniform in [dt_min, dt_max] (section 3.6)."""
        nn.init.uniform_(self.dt_proj.weight, -(dt_rank**-0.5), dt_rank**-0.5)
        log_dt = torch.rand(self.dt_proj.bias.shape) * (math.log(dt_max) - math.log(dt_min)) + math.log(dt_min)
        dt = log_dt.exp().clamp(min=1e-4)
        with torch.no_grad():
            self.dt_proj.bias.copy_(dt + torch.log(-torch.expm1(-dt)))  # inverse of softplus

    def log_decays(self) -> Tensor:
        """A_log (D, N), or the multiples that it stands for; all its columns then learn alike."""
        if self.decays == "free":
            return self.A_log
        multiples = torch.ones_like(self.A_log).cumsum(1).log()
        return (self.A_log - multiples).mean(1, keepdim=True) + multiples

    def forward(self, x: Tensor, conv: Tensor, ssm: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """x (B, L, M), conv (B, D, K-1), ssm (B, D, N) → the output and both states after it."""
        to_signal, to_gate = self.in_proj.weight.chunk(2)  # (D, M) each
        signal, gates = F.linear(x, to_signal), F.linear(x, to_gate)  # (B, L, D)
        assert self.conv1d.bias is not None
        u = convolve(signal, conv, self.conv1d.weight, self.conv1d.bias)  # (B, L, D)
        low_rank, b, c = self.x_proj(u).split(self.split, dim=-1)  # (B, L, R), (B, L, N), (B, L, N)
        dt = F.softplus(self.dt_proj(low_rank))  # (B, L, D)
        y, ssm = selective_scan(u, dt, -torch.exp(self.log_decays()), b, c, ssm)  # eq. 2, zero-order hold on A
        kept = self.d_conv - 1
        tail = torch.cat([conv, signal[:, -kept:].transpose(1, 2)], dim=2)[:, :, -kept:]
        return self.out_proj(gate(y, u, self.D, gates)), tail, ssm


class EcgMamba(nn.Module):
    """Stem, Mamba blocks, pooling over the sliding window, linear head.

    `forward(x, state)` takes the next T samples of a stream and returns the logits of the window that ends with them,
    or with `vote_hops` the vote of the hops that do, and the state after. With no state the stream is at its start.
    """

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.config = config
        self.stem = Stem(config)
        self.norms = nn.ModuleList(
            RMSNorm(config.d_model) if config.residual else nn.Identity() for _ in range(config.n_layers)
        )
        self.blocks = nn.ModuleList(MambaBlock(config) for _ in range(config.n_layers))
        self.final_norm = RMSNorm(config.d_model) if config.final_norm else nn.Identity()
        self.drop = nn.Dropout(config.dropout)
        width = config.d_model * (1 if config.pooling == "mean" else 2)
        self.pool_norm = nn.LayerNorm(width) if config.pool_norm else nn.Identity()
        self.head = nn.Linear(width, config.n_classes)

    @torch.no_grad()
    def settle(self) -> None:
        """Write down the decays that are computed with: in training, rounding moves A_log from what it stands for."""
        for block in self.blocks:
            assert isinstance(block, MambaBlock)
            block.A_log.copy_(block.log_decays())

    def initial_state(self, batch: int) -> State:
        """Return the state of `batch` streams that have seen nothing."""
        like = self.head.weight
        return {
            name: torch.full((batch, *shape), init, device=like.device, dtype=like.dtype)
            for name, (shape, init) in state_layout(self.config).items()
        }

    def forward(self, x: Tensor, state: State | None = None) -> tuple[Tensor, State]:
        """x (B, T, leads), T a multiple of the stride → logits (B, C) and the state after."""
        state = self.initial_state(x.shape[0]) if state is None else state
        features, after = self.encode(x, state)
        pooled, pool_after = self.pool(features, state)
        return self.classify(pooled), after | pool_after

    def encode(self, x: Tensor, state: State) -> tuple[Tensor, State]:
        """Samples (B, T, leads) → features (B, L, M) and the encoder's state after them."""
        frames, after = self.stem(x, state)
        for i, (norm, block) in enumerate(zip(self.norms, self.blocks, strict=True)):
            mixed, after[f"conv_{i}"], after[f"ssm_{i}"] = block(norm(frames), state[f"conv_{i}"], state[f"ssm_{i}"])
            frames = frames + self.drop(mixed) if self.config.residual else mixed
        return self.final_norm(frames), after

    def pool(self, features: Tensor, state: State) -> tuple[Tensor, State]:
        """Pool features (B, L, M) with the finished hops of the window → (B, M or 2M) and the slots after."""
        total, count = features.sum(1), torch.full_like(features[:, :1, 0], features.shape[1])  # (B, M), (B, 1)
        sums, counts = state["pool_sum"], state["pool_count"]  # (B, P, M), (B, P)
        mean = (sums.sum(1) + total) / (counts.sum(1, keepdim=True) + count)
        after = {
            "pool_sum": torch.cat([sums[:, 1:], total[:, None]], 1),
            "pool_count": torch.cat([counts[:, 1:], count], 1),
        }
        if self.config.pooling == "mean":
            return mean, after
        highest = features.amax(1)  # (B, M)
        if self.config.pooling == "mean+max":
            highs = state["pool_max"]  # (B, P, M)
            after["pool_max"] = torch.cat([highs[:, 1:], highest[:, None]], 1)
            return torch.cat([mean, torch.maximum(highs.amax(1), highest)], -1), after
        peaks = state["pool_peak"]  # (B, P, M), zero for hops that have not been
        after["pool_peak"] = torch.cat([peaks[:, 1:], highest[:, None]], 1)
        hops = (counts > 0).sum(1, keepdim=True) + 1
        return torch.cat([mean, (peaks.sum(1) + highest) / hops], -1), after

    def pool_window(self, features: Tensor) -> Tensor:
        """Pool the features of a whole window (B, L, M) at once, as its hops one by one end up: (B, M or 2M)."""
        mean = features.mean(1)
        if self.config.pooling == "mean":
            return mean
        if self.config.pooling == "mean+max":
            return torch.cat([mean, features.amax(1)], -1)
        peaks = [hop.amax(1) for hop in torch.split(features, self.config.hop_frames, dim=1)]
        return torch.cat([mean, torch.stack(peaks).mean(0)], -1)

    def classify(self, pooled: Tensor) -> Tensor:
        """Pooled features → logits (B, C)."""
        return self.head(self.drop(self.pool_norm(pooled)))  # type: ignore[no-any-return]


def state_layout(config: ModelConfig) -> dict[str, tuple[tuple[int, ...], float]]:
    """Return name → (shape without the batch axis, initial value) of every carried tensor, in graph order."""
    layout: dict[str, tuple[tuple[int, ...], float]] = {}
    for stage in config.stem_stages:
        if stage.tail:
            layout[stage.name] = ((stage.inputs, stage.tail), 0.0)
    for i in range(config.n_layers):
        layout[f"conv_{i}"] = ((config.d_inner, config.d_conv - 1), 0.0)
        layout[f"ssm_{i}"] = ((config.d_inner, config.d_state), 0.0)
    layout["pool_sum"] = ((config.pool_slots, config.d_model), 0.0)
    layout["pool_count"] = ((config.pool_slots,), 0.0)
    if config.pooling == "mean+max":
        layout["pool_max"] = ((config.pool_slots, config.d_model), NEVER)
    if config.pooling == "mean+peaks":
        layout["pool_peak"] = ((config.pool_slots, config.d_model), 0.0)
    return layout
