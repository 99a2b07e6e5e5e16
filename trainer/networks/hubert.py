"""HuBERT-ECG: a speech transformer that hears twelve leads one after another, and its masked cluster prediction.

Coppola et al. 2024, medRxiv 2024.11.14.24317328; HuBERT itself is Hsu et al. 2021, arXiv:2106.07447, in the
implementation of `transformers`, imported when a network is built. It reads five seconds at 100 Hz: 6,000 samples, 93
frames of 64. Parameters for five classes, by d_model, layers and heads:
  small 512 × 8 × 8     30,211,717
  base 768 × 12 × 12    92,801,925
  large 960 × 16 × 12  187,648,581

Dimension letters: B batch · T samples · F frames · M d_model · K clusters · C classes
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from torch import Tensor, nn

from edge.errors import EcgEdgeError, MissingExtraError
from trainer.networks.config import NetworkConfig

FEED_FORWARD = 4
"""Width of the feed-forward layers, in d_model."""
PRETRAINING_ONLY = ("final_proj.", "label_embedding.", "masked_spec_embed")
OLD_WEIGHT_NORM = {"conv.weight_g": "conv.parametrizations.weight.original0",
                   "conv.weight_v": "conv.parametrizations.weight.original1"}  # fmt: skip


@dataclass(frozen=True)
class HubertConfig(NetworkConfig):
    """The shape of a `hubert-ecg`; the defaults are the small one."""

    d_model: int = 512
    n_layers: int = 8
    n_heads: int = 8
    d_conv: int = 512
    conv_kernels: tuple[int, ...] = (10, 3, 3, 2, 2)
    conv_strides: tuple[int, ...] = (4, 2, 2, 2, 2)
    dropout: float = 0.1
    layer_drop: float = 0.1
    """Chance of a transformer layer to be left out of a training step; 0 for the large one."""
    scale_leads: bool = True
    """Scale each lead of a crop to [-1, 1], as the public checkpoints expect; amplitude is then lost."""


class PublicWeightsError(EcgEdgeError):
    """A file of weights does not belong to this network."""

    def __init__(self, path: Path, problem: str) -> None:
        self.path = path
        super().__init__(f"{path} does not fit the network: {problem}; compare [model] with the file's config.json")


class Hubert(nn.Module):
    """Samples (B, T, leads) → logits (B, C)."""

    def __init__(self, config: HubertConfig) -> None:
        super().__init__()
        try:
            from transformers import HubertConfig as TransformersConfig
            from transformers import HubertModel
        except ImportError:
            raise MissingExtraError("hubert", "transformers") from None

        self.config = config
        self.hubert = HubertModel(
            TransformersConfig(
                hidden_size=config.d_model, num_hidden_layers=config.n_layers, num_attention_heads=config.n_heads,
                intermediate_size=FEED_FORWARD * config.d_model, conv_dim=(config.d_conv,) * len(config.conv_kernels),
                conv_kernel=config.conv_kernels, conv_stride=config.conv_strides, layerdrop=config.layer_drop,
                hidden_dropout=config.dropout, activation_dropout=config.dropout, attention_dropout=config.dropout,
                feat_proj_dropout=0.0, mask_time_prob=0.0, mask_feature_prob=0.0,
            )
        )  # fmt: skip
        self.drop = nn.Dropout(config.dropout)
        self.head = nn.Linear(config.d_model, config.n_classes)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.drop(self.features(x).mean(1)))  # type: ignore[no-any-return]

    def features(self, x: Tensor, mask: Tensor | None = None, instead: Tensor | None = None) -> Tensor:
        """Samples (B, T, leads) → features (B, F, M); masked frames, (B, F), enter the transformer as `instead` (M)."""
        frames = self.hubert.feature_extractor(self.flattened(x)).transpose(1, 2)
        frames = self.hubert.feature_projection(frames)  # (B, F, M)
        if mask is not None and instead is not None:
            frames = torch.where(mask[:, :, None], instead.to(frames.dtype), frames)
        return self.hubert.encoder(frames).last_hidden_state  # type: ignore[no-any-return]

    def layer_features(self, x: Tensor, layer: int) -> Tensor:
        """Samples (B, T, leads) → features (B, F, M) behind so many layers of the transformer, the last at most."""
        given: list[Tensor] = []

        def keep(module: nn.Module, inputs: Any, outputs: Any) -> None:
            given.append(outputs[0] if isinstance(outputs, tuple) else outputs)

        layers = self.hubert.encoder.layers
        hook = layers[min(layer, len(layers)) - 1].register_forward_hook(keep)
        try:
            self.features(x)
        finally:
            hook.remove()
        return given[0]

    def flattened(self, x: Tensor) -> Tensor:
        """Samples (B, T, leads) → one lead after another, (B, leads · T)."""
        leads = x.transpose(1, 2)
        if self.config.scale_leads:
            low, high = leads.amin(2, keepdim=True), leads.amax(2, keepdim=True)
            leads = 2 * (leads - low) / (high - low + 1e-8) - 1
        return leads.flatten(1)

    @property
    def hop(self) -> int:
        """Samples of the flattened leads from one frame to the next."""
        return math.prod(self.config.conv_strides)

    def frames(self, samples: int) -> int:
        """How many frames the transformer sees of a crop."""
        length = self.config.n_leads * samples
        for kernel, stride in zip(self.config.conv_kernels, self.config.conv_strides, strict=True):
            length = (length - kernel) // stride + 1
        return length

    def load_public(self, path: Path) -> None:
        """Take the encoder of a public checkpoint, a .safetensors file as `transformers` saves it; the head stays.

        Raises PublicWeightsError when it is another network's.
        """
        weights = {}
        for name, tensor in load_file(path).items():
            name = name.removeprefix("hubert_ecg.").removeprefix("hubert.")
            for old, new in OLD_WEIGHT_NORM.items():
                name = name.replace(old, new)
            if not name.startswith((*PRETRAINING_ONLY, "classifier.")):
                weights[name] = tensor
        try:
            self.hubert.load_state_dict(weights)
        except RuntimeError as error:
            raise PublicWeightsError(path, str(error).splitlines()[-1].strip()) from None


class MaskedClusterPrediction(nn.Module):
    """Pre-training: some frames are hidden, and the transformer tells which cluster each of them belongs to."""

    def __init__(self, network: Hubert, n_clusters: int = 100, d_codes: int = 256, temperature: float = 0.1) -> None:
        super().__init__()
        self.network = network
        self.temperature = temperature
        self.mask_embedding = nn.Parameter(torch.rand(network.config.d_model))
        self.project = nn.Linear(network.config.d_model, d_codes)
        self.codes = nn.Embedding(n_clusters, d_codes)

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        """Crops (B, T, leads) and which frames are hidden (B, F) → logits of the clusters of those (hidden, K)."""
        return self.logits(self.network.features(x, mask, self.mask_embedding)[mask])

    def logits(self, features: Tensor) -> Tensor:
        """Features (…, M) → cosine to the code of each cluster over the temperature (…, K); equation 3."""
        projected = F.normalize(self.project(features), dim=-1)
        return projected @ F.normalize(self.codes.weight, dim=-1).T / self.temperature


def hidden_frames(batch: int, frames: int, share: float, generator: torch.Generator) -> Tensor:
    """Choose the same number of frames of each crop at random, (B, F), one at least; HuBERT-ECG hides a third."""
    count = max(1, round(share * frames))
    return torch.rand(batch, frames, generator=generator).argsort(1) < count
