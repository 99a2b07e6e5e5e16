"""Training in two stages: what one task or a pre-training taught, with a new head for the next."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from edge.errors import EcgEdgeError
from trainer.checkpoint import load_checkpoint
from trainer.networks.printed import Printed

HEAD = "head."
"""What a network's last layer is called in every kind."""


class TransferError(EcgEdgeError):
    """What was learned elsewhere does not fit the model."""

    def __init__(self, path: Path, problem: str) -> None:
        self.path, self.problem = path, problem
        super().__init__(f"cannot start from {path}: {problem}")


def start_from(model: nn.Module, path: Path) -> None:
    """Take everything but the head from a checkpoint of the same network, or a public file of a HuBERT-ECG's weights.

    Raises BundleError when the checkpoint cannot be read and TransferError when it is of another network.
    """
    network = without_layout(model)
    if path.is_file():
        _load_public(network, path)
        return
    learned = load_checkpoint(path).model
    taught = body(learned)
    wanted = body(model)
    differ = [name for name in wanted if name not in taught or taught[name].shape != wanted[name].shape]
    differ += [name for name in taught if name not in wanted]
    if differ:
        raise TransferError(path, f"it is of another network: {len(differ)} weights differ, such as {differ[0]}")
    network.load_state_dict(taught, strict=False)


def body(model: nn.Module) -> dict[str, Tensor]:
    """Return all weights and statistics of a model but its head's, by name; whatever layout its input has."""
    network = without_layout(model)
    return {name: tensor for name, tensor in network.state_dict().items() if not name.startswith(HEAD)}


def without_layout(model: nn.Module) -> nn.Module:
    """Return the network itself, without what lays out its input."""
    return model.network if isinstance(model, Printed) else model


def head_of(model: nn.Module) -> nn.Linear:
    """Return a network's last layer."""
    head = without_layout(model).head
    assert isinstance(head, nn.Linear)
    return head


def facts_of_start(path: Path) -> dict[str, Any]:
    """Return what a checkpoint should say of where it started: of which training, and what that had seen."""
    if path.is_file():
        return {"name": path.name, "sha256": hashlib.sha256(path.read_bytes()).hexdigest()}
    facts = load_checkpoint(path).facts
    earlier = facts.training.get("init") or {}
    seen = {*_folds(facts.training, "folds"), *_folds(facts.training, "tune_folds"), *_folds(earlier, "folds")}
    name = str(facts.preset.get("name", facts.kind))
    return {"name": name, "sha256": facts.weights_sha256, "folds": sorted(seen)}


def _folds(facts: Mapping[str, Any], key: str) -> list[int]:
    return [fold for fold in facts.get(key) or [] if isinstance(fold, int)]


def _load_public(network: nn.Module, path: Path) -> None:
    from trainer.networks.hubert import Hubert

    if not isinstance(network, Hubert):
        raise TransferError(path, "only a hubert-ecg reads public files; name a checkpoint folder such as RUN/best")
    network.load_public(path)
