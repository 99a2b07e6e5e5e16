"""What a user would do otherwise with packages that a device does not have, for `ecg-edge bench --rivals`.

PyTorch on one thread, in inference mode; no weights but shapes matter for a time, so what has no trained weights here
has random ones.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from edge.bench.rivals import Rival
from edge.bench.timing import Call, noise
from edge.runtime.bundle import Bundle
from edge.runtime.manifest import RECURRENT

if TYPE_CHECKING:
    from torch import Tensor


def rivals(bundle: Bundle) -> list[Rival]:
    """Return every rival that there can be to a bundle."""
    manifest = bundle.manifest
    cnn = Rival(
        "cardionet",
        f"CardioNet-XL's shape, 4.1 M parameters, in PyTorch, the whole {manifest.window_s:g} s at every hop",
        lambda batch: _cardionet(bundle, batch),
        per_window=True,
    )
    if manifest.kind != RECURRENT:
        return [cnn]
    window = Rival(
        "pytorch_window",
        f"the same model in PyTorch with the trainer's C scan, the whole {manifest.window_s:g} s at every hop",
        lambda batch: _window(bundle, batch),
        per_window=True,
    )
    cached = Rival(
        "transformers",
        "the same blocks in transformers' Mamba, its cache carried from frame to frame, without stem and head",
        lambda batch: _cached(bundle, batch),
    )
    return [window, cached, cnn]


def _window(bundle: Bundle, batch: int) -> Call:
    from trainer.checkpoint import model_from_bundle

    manifest, model = bundle.manifest, model_from_bundle(bundle)
    return _inference(lambda x: model(x), _samples(batch, manifest.window_samples, len(manifest.leads)))


def _cached(bundle: Bundle, batch: int) -> Call:
    from transformers import MambaConfig, MambaModel
    from transformers.cache_utils import DynamicCache
    from transformers.utils.logging import set_verbosity_error

    from trainer.checkpoint import model_from_bundle

    set_verbosity_error()  # that it has no CUDA kernels on a CPU
    shape, manifest = model_from_bundle(bundle).config, bundle.manifest
    config = MambaConfig(
        vocab_size=1, hidden_size=shape.d_model, num_hidden_layers=shape.n_layers, state_size=shape.d_state,
        conv_kernel=shape.d_conv, expand=shape.expand,
    )  # fmt: skip
    model, cache = MambaModel(config).eval(), DynamicCache(config=config)
    frames = _samples(batch, manifest.hop_samples // manifest.stride, shape.d_model)

    def hop(x: Tensor) -> None:
        for k in range(x.shape[1]):  # from a cache it takes one frame at a time
            model(inputs_embeds=x[:, k : k + 1], cache_params=cache, use_cache=True)

    return _inference(hop, frames)


def _cardionet(bundle: Bundle, batch: int) -> Call:
    from trainer.networks.cardionet import CardioNet, CardioNetConfig

    manifest = bundle.manifest
    leads, window = len(manifest.leads), manifest.window_samples
    config = CardioNetConfig(n_leads=leads, n_classes=len(manifest.classes), window_samples=window)
    return _inference(CardioNet(config).eval(), _samples(batch, window, leads))


def _inference(model: Callable[[Tensor], object], x: Tensor) -> Call:
    """Return a call without gradients, on the thread that calls."""
    import torch

    torch.set_num_threads(1)
    return torch.inference_mode()(lambda: model(x))


def _samples(batch: int, samples: int, leads: int) -> Tensor:
    import torch

    return torch.from_numpy(noise(batch, samples, leads))
