"""What a ten-second record costs a network: floating-point operations, two per multiply-add.

Counted as it runs by PyTorch's counter: matrix products, convolutions and attention. Added here is what that counter
does not see: a Mamba's scan and convolution, which run in kernels of their own, and LSTM layers, which oneDNN runs in
one piece.
Left out are activations, norms, pooling and sums, a few percent of a network.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from math import prod
from typing import Any

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from trainer.kinds import whole_logits
from trainer.mixer import is_in_c
from trainer.model import MambaBlock

RECORD_S = 10
STATED = (
    "FLOPs: of a ten-second record as it is evaluated, crops included; two per multiply-add, of matrix products, "
    "convolutions, attention, LSTM layers and the selective scan"
)


def record_flops(model: nn.Module, rate_hz: int, leads: int, crop_samples: int) -> int:
    """Return the operations of one record, evaluated as `trainer.kinds.record_logits` does."""
    record = torch.zeros(1, RECORD_S * rate_hz, leads)
    counter = FlopCounterMode(display=False, custom_mapping={torch.ops.aten.mkldnn_rnn_layer: _rnn_layer})
    with torch.no_grad(), counter, _scans(model) as scans:
        whole_logits(model.eval(), record, crop_samples)
    return int(counter.get_total_flops()) + sum(scans)


def scan_flops(batch: int, steps: int, channels: int, states: int) -> int:
    """Return the operations of a selective scan (`trainer.scan`), an exponential counted as one.

    Per state: dt·A, its exponential, times h, times b, their sum, times c, into the output; per channel: dt·u.
    """
    return batch * steps * channels * (7 * states + 1)


@contextmanager
def _scans(model: nn.Module) -> Iterator[list[int]]:
    """Give a list that fills with the operations of each scan of the model, and of its convolution where C does it."""
    found: list[int] = []

    def note(block: nn.Module, inputs: tuple[Any, ...], output: object) -> None:
        assert isinstance(block, MambaBlock)
        (batch, steps, _), (channels, states) = inputs[0].shape, block.A_log.shape
        found.append(scan_flops(batch, steps, channels, states))
        if is_in_c(inputs[0], block.d_conv):
            found.append(2 * batch * steps * channels * block.d_conv)

    hooks = [block.register_forward_hook(note) for block in model.modules() if isinstance(block, MambaBlock)]
    try:
        yield found
    finally:
        for hook in hooks:
            hook.remove()


def _rnn_layer(x: Sequence[int], from_input: Sequence[int], from_state: Sequence[int], *_: object, **__: object) -> int:
    """An LSTM layer from the shapes of its input (T, B, in) and of its two matrices (4H, in) and (4H, H)."""
    return 2 * prod(x[:2]) * (prod(from_input) + prod(from_state))
