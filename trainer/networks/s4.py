"""The bidirectional state-space classifier of S4-ECG: four layers between a 1×1 convolution and the average over time.

What it is exactly: the layout of S4-ECG (Mehari & Strodthoff 2023, arXiv:2211.07579; ACS-BenchWork uses the same), with
S4D in place of S4: the state matrix is diagonal, without S4's low-rank term, discretised with zero-order hold and
started as S4D-Lin or S4D-LegS (Gu et al. 2022, arXiv:2206.11893, sections 3 and 4). Each direction has its own
dynamics. 2,186,245 trainable parameters for five classes with d_state 8.

The convolution with a layer's kernels is exact and goes by blocks: inside a block as a matrix, which holds both
directions and the direct path, from block to block by the states that neighbours hand over. Matrix products are all it
takes, so the network exports as it is, which a Fourier transform would not. Channels come first around the convolution
and last around the mixture, because that is how either is one matrix product of what lies in memory.

Dimension letters: B batch · T samples · M d_model · H scanned channels, M forward and M backward · N modes, d_state / 2
  Q block length · K blocks · C classes
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

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
    modes_init: Literal["lin", "legs"] = "lin"
    """Where the modes start: lin, evenly spaced; legs, those of HiPPO-LegS, as the original's, which reach further."""


class S4(nn.Module):
    """Samples (B, T, leads) → logits (B, C)."""

    def __init__(self, config: S4Config) -> None:
        super().__init__()
        self.config = config
        self.encoder = nn.Linear(config.n_leads, config.d_model)
        self.layers = nn.ModuleList(S4Layer(config) for _ in range(config.n_layers))
        self.norms = nn.ModuleList(nn.LayerNorm(config.d_model) for _ in range(config.n_layers))
        self.head = nn.Linear(config.d_model, config.n_classes)

    def forward(self, x: Tensor) -> Tensor:
        features = self.encoder(x)  # (B, T, M)
        for layer, norm in zip(self.layers, self.norms, strict=True):
            features = norm(features + layer(features))
        return self.head(features.mean(1))  # type: ignore[no-any-return]


class S4Layer(nn.Module):
    """A state-space model per channel and direction, then a gated mixture of the channels."""

    def __init__(self, config: S4Config) -> None:
        super().__init__()
        self.D = nn.Parameter(torch.randn(config.d_model))
        rates, gains = STARTING_MODES[config.modes_init](config.d_state // 2)
        self.ssm = DiagonalSsm(config.d_model, rates, gains, config.block_samples)
        self.drop = DropChannels(config.dropout)
        self.mix = nn.Linear(config.d_model, 2 * config.d_model)

    def forward(self, u: Tensor) -> Tensor:
        """u (B, T, M) → the same shape."""
        batch, samples, channels = u.shape
        y = self.ssm(u.reshape(-1, channels).t().reshape(channels, batch, samples), self.D)  # (M, B, T)
        mixed = self.mix(self.drop(F.gelu(y), over=2).reshape(channels, -1).t())  # (BT, 2M)
        return self.drop(F.glu(mixed, dim=1).reshape(u.shape), over=1)  # type: ignore[no-any-return]


class DropChannels(nn.Module):
    """Dropout of a whole channel of a record at a time, `over` the dimension of its samples."""

    def __init__(self, share: float) -> None:
        super().__init__()
        self.share = share

    def forward(self, x: Tensor, over: int) -> Tensor:
        if not self.training:
            return x
        return x * F.dropout(torch.ones_like(x.narrow(over, 0, 1)), self.share)


def evenly_spaced_modes(count: int) -> tuple[Tensor, Tensor]:
    """S4D-Lin: the imaginary parts πn of the modes' rates (count,), and their inputs' gains |B| (count,), all 1."""
    return math.pi * torch.arange(count), torch.ones(count)


def legendre_modes(count: int) -> tuple[Tensor, Tensor]:
    """S4D-LegS: the same of the normal part of HiPPO-LegS of order 2 · count, in the basis of its eigenvectors.

    HiPPO-LegS is that normal part less a matrix of rank one (Gu et al. 2020, arXiv:2008.07669; 2022, section 3.2). Of
    each pair of conjugates the one above the real axis is kept, the slowest first.
    """
    weights = torch.sqrt(2 * torch.arange(2 * count, dtype=torch.float64) + 1)  # B
    outer = weights[:, None] * weights / 2
    skew = outer.triu(1) - outer.tril(-1)  # the normal part, but for real parts of -1/2
    rates, basis = torch.linalg.eigh(skew * -1j)
    gains = (basis.mH @ weights.to(basis.dtype)).abs()
    return rates[count:].float(), gains[count:].float()


STARTING_MODES = {"lin": evenly_spaced_modes, "legs": legendre_modes}


class DiagonalSsm(nn.Module):
    """A diagonal state-space model of each channel on its own, forward and backward, from states of zero.

    Its modes start with rates of -1/2 + i · `rates` in units of 1 / dt, their inputs weighed by `gains`.
    """

    def __init__(
        self, channels: int, rates: Tensor, gains: Tensor, block: int, dt_min: float = 1e-3, dt_max: float = 0.1
    ) -> None:
        super().__init__()
        self.block = block
        scanned = 2 * channels  # forward ones before backward ones
        self.log_dt = nn.Parameter(torch.rand(scanned) * math.log(dt_max / dt_min) + math.log(dt_min))
        self.A_log = nn.Parameter(torch.full((scanned, len(rates)), math.log(0.5)))  # of minus its real part
        self.A_imag = nn.Parameter(rates.repeat(scanned, 1).float())
        c = torch.randn(scanned, len(rates), 2) * math.sqrt(0.5)  # real and imaginary part
        self.C = nn.Parameter(c * gains[:, None])  # B in it

    def forward(self, u: Tensor, direct: Tensor) -> Tensor:
        """u (M, B, T), direct (M,) → y (M, B, T): both directions' convolutions, and u times `direct`.

        The convolutions are with Re Σ 2 C (exp(dt A) - 1) / A · exp(dt A t).
        """
        with torch.autocast(u.device.type, enabled=False):  # a half-precision state forgets what is long ago
            return self._scan(u.float(), direct)

    def _scan(self, u: Tensor, direct: Tensor) -> Tensor:
        channels, batch, samples = u.shape
        blocks = (samples + self.block - 1) // self.block
        within, enter, leave, decay = self._operators(direct)
        rows = F.pad(u, (0, blocks * self.block - samples)).reshape(channels, batch * blocks, self.block)
        y = torch.bmm(rows, within)  # (M, BK, Q)
        if blocks > 1:
            entered = torch.bmm(rows, enter).reshape(channels, batch, blocks, -1)  # (M, B, K, 4N)
            ahead, back = entered.chunk(2, dim=3)
            states = carried(torch.cat([ahead, back.flip(2)]), decay)  # (H, B, K, 2N)
            ahead, back = states.chunk(2)
            y = torch.baddbmm(y, torch.cat([ahead, back.flip(2)], 3).flatten(1, 2), leave)
        return y.reshape(channels, batch, -1)[:, :, :samples]

    def _operators(self, direct: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """What a block does to its samples and to the states beside it, real parts of a state before imaginary ones.

        Returns samples → samples (M, Q, Q), samples → states after it and before it (M, Q, 4N), the states before it
        and after it → samples (M, 4N, Q), and the states' decay (H, 2N).
        """
        gain_re, gain_im = (part[:, :, None] for part in self._gains())  # (H, N, 1)
        dt = self.log_dt.exp()[:, None, None]
        lags = torch.arange(self.block + 1, device=dt.device)
        size = torch.exp(-self.A_log.exp()[:, :, None] * dt * lags)  # (H, N, Q + 1)
        angle = self.A_imag[:, :, None] * dt * lags
        re, im = size * angle.cos(), size * angle.sin()
        out_re, out_im = gain_re * re - gain_im * im, gain_re * im + gain_im * re
        ahead, back = out_re[:, :, :-1].sum(1).chunk(2)  # (M, Q) each
        here = ahead[:, :1] + back[:, :1] + direct[:, None]
        within = toeplitz(torch.cat([here, ahead[:, 1:]], 1), back[:, 1:])
        ahead, back = torch.cat([re[:, :, :-1], im[:, :, :-1]], 1).chunk(2)  # (M, 2N, Q) each
        enter = torch.cat([ahead.flip(2), back], 1).transpose(1, 2)
        ahead, back = torch.cat([out_re[:, :, 1:], -out_im[:, :, 1:]], 1).chunk(2)
        return within, enter, torch.cat([ahead, back.flip(2)], 1), torch.cat([re[:, :, -1], im[:, :, -1]], 1)

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


def toeplitz(later: Tensor, earlier: Tensor) -> Tensor:
    """Kernels (M, Q) and (M, Q - 1) → matrices (M, Q, Q) that a row of samples is multiplied by to be convolved.

    [j, i] is what the sample at j does to the one at i: `later` at i - j, or `earlier` at j - i - 1. Rows of 2Q - 1 cut
    from a tape of period 2Q move on by one each.
    """
    size = later.shape[1]
    tape = torch.cat([F.pad(later, (0, 1)), earlier.flip(1)], 1).repeat(1, size)  # (M, 2Q²)
    return tape[:, : size * (2 * size - 1)].reshape(-1, size, 2 * size - 1)[:, :, :size]
