"""Models by kind: the streaming Mamba, which carries state, and the windowed networks it is compared with."""

from __future__ import annotations

from dataclasses import asdict, fields, replace
from typing import Any

import msgspec
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from trainer.model import EcgMamba, ModelConfig
from trainer.networks.registry import NETWORKS, build_network, config_type
from trainer.networks.windowed import Windowed
from trainer.votes import logits_after

MAMBA = "mamba"
KINDS = (MAMBA, *NETWORKS)


def model_config(kind: str, table: dict[str, Any]) -> Any:
    """Return the configuration of a model; raises msgspec.ValidationError for unknown kinds, keys and types."""
    if kind not in KINDS:
        raise msgspec.ValidationError(f"[model] kind {kind!r} is none of {', '.join(KINDS)}")
    described = ModelConfig if kind == MAMBA else config_type(kind)
    unknown = set(table) - {field.name for field in fields(described)}
    if unknown:
        raise msgspec.ValidationError(f"[model] has unknown keys {', '.join(sorted(unknown))}")
    return msgspec.convert(table, described)


def build_model(kind: str, config: Any) -> nn.Module:
    """Return a model with fresh weights."""
    return EcgMamba(config) if kind == MAMBA else build_network(kind, config)


def with_outputs(config: Any, outputs: int) -> Any:
    """Return the configuration of the same model with another number of outputs."""
    return replace(config, n_classes=outputs)


def narrowed(kind: str, config: Any, model: nn.Module) -> nn.Module:
    """Return a copy of a model in training as it is to be kept: settled, and with the configuration's outputs only."""
    narrow = build_model(kind, config)
    like = narrow.state_dict()
    wide = model.state_dict()
    narrow.load_state_dict({name: wide[name][: len(like[name])] if wide[name].ndim else wide[name] for name in like})
    if isinstance(narrow, EcgMamba):
        narrow.settle()
    return narrow.train(model.training)


@torch.inference_mode()
def record_logits(model: nn.Module, signals: NDArray[Any], crop_samples: int) -> NDArray[Any]:
    """Return the logits (records, classes) of whole records, model input (records, samples, leads), from a cold start.

    As `whole_logits`, computed where the model is.
    """
    x = torch.from_numpy(signals).to(next(model.parameters()).device)
    return whole_logits(model, x, crop_samples).float().cpu().numpy()


def whole_logits(model: nn.Module, x: Tensor, crop_samples: int) -> Tensor:
    """Whole records (B, T, leads) → logits (B, C).

    A Mamba is asked at the last whole hop, over its window; any other network over crops of `crop_samples`, averaged.
    """
    if not isinstance(model, EcgMamba):
        return Windowed(model, crop_samples)(x)  # type: ignore[no-any-return]
    return logits_after(model, x, model.initial_state(len(x)))


def describe_config(config: Any) -> dict[str, Any]:
    """Return a configuration as plain values."""
    return asdict(config)
