"""Every kind of network by name. A new kind is a module of this package and a line here."""

from __future__ import annotations

import importlib
from typing import Any

import msgspec
from torch import nn

NETWORKS: dict[str, tuple[str, str, str]] = {
    "resnet1d-wang": ("resnet", "ResnetConfig", "Resnet"),
}
"""Kind → (module, its configuration, its network); imported when asked for."""


def config_type(kind: str) -> type[Any]:
    """Return the dataclass that describes a network of this kind."""
    module, config, _ = NETWORKS[kind]
    return getattr(importlib.import_module(f"trainer.networks.{module}"), config)  # type: ignore[no-any-return]


def build_network(kind: str, config: Any) -> nn.Module:
    """Return a network with fresh weights; raises msgspec.ValidationError where the configuration does not fit."""
    module, _, network = NETWORKS[kind]
    typed = msgspec.convert(config, config_type(kind), from_attributes=True)
    return getattr(importlib.import_module(f"trainer.networks.{module}"), network)(typed)  # type: ignore[no-any-return]
