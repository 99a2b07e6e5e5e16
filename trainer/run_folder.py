"""What stands in the folder of a run: the weights that are kept, the state to go on from, a line for each epoch."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch

from edge.errors import EcgEdgeError

BEST_NAME = "best"
LAST_NAME = "last.pt"
HISTORY_NAME = "metrics.jsonl"


class RunMismatchError(EcgEdgeError):
    """The folder holds a run that this one cannot go on with."""

    def __init__(self, out: Path, difference: str) -> None:
        self.out = out
        super().__init__(f"{out} holds a run of {difference}: choose another --out, or start over with --fresh")


def save_last(out: Path, epoch: dict[str, Any], state: dict[str, Any]) -> None:
    """Write the line of an epoch, and what a run goes on from after it; a run that is killed meanwhile has either."""
    with (out / HISTORY_NAME).open("a") as lines:
        lines.write(json.dumps(epoch) + "\n")
    partial = out / f"{LAST_NAME}.partial"
    torch.save(state, partial)
    partial.replace(out / LAST_NAME)


def load_last(out: Path) -> dict[str, Any] | None:
    """Return what `save_last` wrote last, on the CPU, or None where no epoch is finished."""
    path = out / LAST_NAME
    return torch.load(path, weights_only=True, map_location="cpu") if path.is_file() else None
