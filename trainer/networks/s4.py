"""The bidirectional state-space classifier of S4-ECG: four layers between a 1×1 convolution and the average over time.

What it is exactly: the layout of S4-ECG (Mehari & Strodthoff 2023, arXiv:2211.07579; ACS-BenchWork uses the same), with
S4D in place of S4: the state matrix is diagonal, without S4's low-rank term, discretised with zero-order hold and
started as S4D-Lin (Gu et al. 2022, arXiv:2206.11893, sections 3 and 4). Each direction has its own dynamics. 2,186,245
trainable parameters for five classes with d_state 8.

The convolution with a layer's kernel is exact and goes by blocks: inside a block as a matrix, from block to block by
the state that one hands to the next. Matrix products are all it takes, so the network exports as it is, which a Fourier
transform would not.

Dimension letters: B batch · T samples · M d_model · H scanned channels, M forward and M backward · N modes, d_state / 2
  Q block length · K blocks · C classes
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from trainer.networks.config import NetworkConfig


@dataclass(frozen=True)
class S4Config(NetworkConfig):
    """The shape of an `s4-ecg`; d_state is 8 for PTB-XL in the original, 64 for acute coronary syndrome."""

    d_model: int = 512
    n_layers: int = 4
    d_state: int = 8
    """Real state variables per channel: half as many complex ones, their conjugates implied."""
    dropout: float = 0.2
    block_samples: int = 64


class S4(nn.Module):
    """Samples (B, T, leads) → logits (B, C)."""

    def __init__(self, config: S4Config) -> None:
        super().__init__()
        self.config = config
        self.encoder = nn.Linear(config.n_leads, config.d_model)
        self.layers = nn.ModuleList(S4Layer(config) for _ in range(config.n_layers))
        self.norms = nn.ModuleList(nn.LayerNorm(config.d_model) for _ in range(config.n_layers))
        self.drop = nn.Dropout1d(config.dropout)
        self.head = nn.Linear(config.d_model, config.n_classes)

    def forward(self, x: Tensor) -> Tensor:
        features = self.encoder(x).transpose(1, 2)  # (B, M, T)
        for layer, norm in zip(self.layers, self.norms, strict=True):
            features = norm((features + self.drop(layer(features))).transpose(1, 2)).transpose(1, 2)
        return self.head(features.mean(2))  # type: ignore[no-any-return]


class S4Layer(nn.Module):
    """A state-space model per channel and direction, then a gated mixture of the channels."""

    def __init__(self, config: S4Config) -> None:
        super().__init__()
        self.D = nn.Parameter(torch.randn(config.d_model))
        self.ssm = DiagonalSsm(2 * config.d_model, config.d_state // 2, config.block_samples)
        self.drop = nn.Dropout1d(config.dropout)
        self.mix = nn.Conv1d(config.d_model, 2 * config.d_model, 1)

    def forward(self, u: Tensor) -> Tensor:
        """u (B, M, T) → the same shape."""
        ahead, back = self.ssm(torch.cat([u, u.flip(2)], 1)).chunk(2, dim=1)  # (B, M, T) each
        y = ahead + back.flip(2) + u * self.D[:, None]
        return F.glu(self.mix(self.drop(F.gelu(y))), dim=1)


class DiagonalSsm(nn.Module):
    """A causal diagonal state-space model of each channel on its own, from a state of zero."""

    def __init__(self, channels: int, modes: int, block: int, dt_min: float = 1e-3, dt_max: float = 0.1) -> None:
        super().__init__()
        self.block = block
        self.log_dt = nn.Parameter(torch.rand(channels) * math.log(dt_max / dt_min) + math.log(dt_min))
        self.A_log = nn.Parameter(torch.full((channels, modes), math.log(0.5)))  # of minus its real part
        self.A_imag = nn.Parameter(math.pi * torch.arange(modes).repeat(channels, 1).float())
        self.C = nn.Parameter(torch.randn(channels, modes, 2) * math.sqrt(0.5))  # real and imaginary part

    def forward(self, u: Tensor) -> Tensor:
        """u (B, H, T) → y (B, H, T), the convolution with Re Σ 2 C (exp(dt A) - 1) / A · exp(dt A t)."""
        with torch.autocast(u.device.type, enabled=False):  # a half-precision state forgets what is long ago
            return self._scan(u.float())

    def _scan(self, u: Tensor) -> Tensor:
        batch, samples, size = u.shape[0], u.shape[2], self.block
        blocks = (samples + size - 1) // size
        block, leave, decay = self._operators()
        padded = F.pad(u, (0, blocks * size - samples))
        rows = padded.transpose(0, 1).reshape(-1, batch * blocks, size)  # (H, BK, Q)
        products = torch.bmm(rows, block)  # (H, BK, Q + 2N)
        within, entered = products[:, :, :size], products[:, :, size:]
        states = carried(entered.reshape(-1, batch, blocks, leave.shape[1]), decay)  # (H, B, K, 2N)
        y = torch.baddbmm(within, states.flatten(1, 2), leave)  # (H, BK, Q)
        return y.reshape(-1, batch, blocks * size)[:, :, :samples].transpose(0, 1)

    def _operators(self) -> tuple[Tensor, Tensor, Tensor]:
        """What a block does to its samples and to the state before it, real parts of the state before imaginary ones.

        Returns samples → samples and state after it (H, Q, Q + 2N), state → samples (H, 2N, Q), and the state's decay
        (H, 2N).
        """
        gain_re, gain_im = (part[:, :, None] for part in self._gains())  # (H, N, 1)
        dt = self.log_dt.exp()[:, None, None]
        lags = torch.arange(self.block + 1, device=dt.device)
        size = torch.exp(-self.A_log.exp()[:, :, None] * dt * lags)  # (H, N, Q + 1)
        angle = self.A_imag[:, :, None] * dt * lags
        re, im = size * angle.cos(), size * angle.sin()
        out_re, out_im = gain_re * re - gain_im * im, gain_re * im + gain_im * re
        enter = torch.cat([re[:, :, :-1], im[:, :, :-1]], 1).flip(2)  # (H, 2N, Q)
        leave = torch.cat([out_re[:, :, 1:], -out_im[:, :, 1:]], 1)
        block = torch.cat([toeplitz(out_re[:, :, :-1].sum(1)), enter.transpose(1, 2)], 2)
        return block, leave, torch.cat([re[:, :, -1], im[:, :, -1]], 1)

    def _gains(self) -> tuple[Tensor, Tensor]:
        """Real and imaginary part (H, N) of 2 C (exp(dt A) - 1) / A: zero-order hold, conjugates counted."""
        dt, a_re, a_im = self.log_dt.exp()[:, None], -self.A_log.exp(), self.A_imag
        size = torch.exp(a_re * dt)
        step_re, step_im = size * torch.cos(a_im * dt) - 1, size * torch.sin(a_im * dt)
        norm = a_re**2 + a_im**2
        held_re = (step_re * a_re + step_im * a_im) / norm
        held_im = (step_im * a_re - step_re * a_im) / norm
        c_re, c_im = self.C.unbind(2)
        return 2 * (c_re * held_re - c_im * held_im), 2 * (c_re * held_im + c_im * held_re)


def carried(entered: Tensor, decay: Tensor) -> Tensor:
    """What each block brings into the state (H, B, K, 2N) → the state before each block, from zero at the first."""
    decay_re, decay_im = decay[:, None].chunk(2, dim=2)  # (H, 1, N)
    states = [torch.zeros_like(entered[:, :, 0])]
    for part in entered[:, :, :-1].unbind(2):
        re, im = states[-1].chunk(2, dim=2)
        states.append(torch.cat([decay_re * re - decay_im * im, decay_re * im + decay_im * re], 2) + part)
    return torch.stack(states, 2)


def toeplitz(kernel: Tensor) -> Tensor:
    """Kernels (H, Q) → matrices (H, Q, Q) that a row of samples is multiplied by to be convolved: [j, i] is k at i - j.

    Rows of 2Q - 1 cut from a tape of period 2Q move on by one each; zeros come in where the kernel has not begun.
    """
    size = kernel.shape[1]
    tape = F.pad(kernel, (0, size)).repeat(1, size)  # (H, 2Q²)
    return tape[:, : size * (2 * size - 1)].reshape(-1, size, 2 * size - 1)[:, :, :size]
