"""Every kind of network by name. A new kind is a module of this package and a line here."""

from __future__ import annotations

import importlib
from dataclasses import replace
from typing import Any

import msgspec
from torch import nn

from trainer.networks.config import NetworkConfig
from trainer.networks.printed import COLUMNS, ROWS, Printed

NETWORKS: dict[str, tuple[str, str, str]] = {
    "cardionet-xl": ("cardionet", "CardioNetConfig", "CardioNet"),
    "hubert-ecg": ("hubert", "HubertConfig", "Hubert"),
    "inception1d": ("inception", "InceptionConfig", "Inception"),
    "lstm": ("rnn", "LstmConfig", "Lstm"),
    "resnet1d-wang": ("resnet", "ResnetConfig", "Resnet"),
    "resnet18-1d": ("resnet18", "Resnet18Config", "Resnet18"),
    "s4-ecg": ("s4", "S4Config", "S4"),
    "simple-cnn-1d": ("simple_cnn", "SimpleCnn1dConfig", "SimpleCnn1d"),
    "simple-cnn-2d": ("simple_cnn", "SimpleCnn2dConfig", "SimpleCnn2d"),
    "ssl-encoder": ("ssl_encoder", "SslEncoderConfig", "SslEncoder"),
    "xresnet1d101": ("xresnet", "XresnetConfig", "Xresnet"),
}
"""Kind → (module, its configuration, its network); imported when asked for."""


def config_type(kind: str) -> type[NetworkConfig]:
    """Return the dataclass that describes a network of this kind."""
    module, config, _ = NETWORKS[kind]
    return getattr(importlib.import_module(f"trainer.networks.{module}"), config)  # type: ignore[no-any-return]


def build_network(kind: str, config: Any) -> nn.Module:
    """Return a network with fresh weights; raises msgspec.ValidationError where the configuration does not fit."""
    module, _, network = NETWORKS[kind]
    typed = msgspec.convert(config, config_type(kind), from_attributes=True)
    build = getattr(importlib.import_module(f"trainer.networks.{module}"), network)
    if typed.layout == "leads":
        return build(typed)  # type: ignore[no-any-return]
    if typed.n_leads != ROWS * COLUMNS:
        raise msgspec.ValidationError(f"a print has {ROWS * COLUMNS} leads: [model] n_leads = {typed.n_leads}")
    return Printed(typed, build(replace(typed, n_leads=ROWS)))
