"""What a preset says of its pre-training: a table for each method, what all have in common first.

[pretraining.simclr]
epochs = 40
temperature = 0.07
"""

from __future__ import annotations

from typing import Annotated

import msgspec

from trainer.augment import Augmentation

Count = Annotated[int, msgspec.Meta(ge=1, le=65_536)]
Share = Annotated[float, msgspec.Meta(ge=0.0, le=1.0)]
Positive = Annotated[float, msgspec.Meta(gt=0.0)]


class Plan(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What every method is told; everything else is as in [training]."""

    epochs: Annotated[int, msgspec.Meta(ge=1, le=10_000)] = 40
    """Of each stage."""
    batch_size: Count = 256
    learning_rate: Positive = 1e-3
    weight_decay: Annotated[float, msgspec.Meta(ge=0.0)] = 1e-4
    crop_s: Positive | None = None
    """Length of the crops; unless named, that of [training]."""
    augment: tuple[Augmentation, ...] | None = None
    """What is done to each crop; unless named, what [training] does."""


class MaskedClustersPlan(Plan, frozen=True):
    """HuBERT's masked cluster prediction, in stages (Hsu et al. 2021, arXiv:2106.07447)."""

    epochs: Annotated[int, msgspec.Meta(ge=1, le=10_000)] = 10
    batch_size: Count = 32
    learning_rate: Positive = 5e-4
    weight_decay: Annotated[float, msgspec.Meta(ge=0.0)] = 1e-2
    clusters: Annotated[tuple[Annotated[int, msgspec.Meta(ge=2)], ...], msgspec.Meta(min_length=1)] = (100, 500)
    """How many in each stage: those of the first are of the signal's own features, later ones of the stage before."""
    hidden_share: Share = 0.33
    """How many frames of a crop the network has to guess."""
    layer: Annotated[int, msgspec.Meta(ge=1)] = 4
    """The layer whose features the later stages cluster."""
    cluster_records: Annotated[int, msgspec.Meta(ge=1)] = 2000
    """How many records the clusters are found on."""


class SimClrPlan(Plan, frozen=True):
    """Two changed views of each record find each other in a batch (Chen et al. 2020, arXiv:2002.05709)."""

    temperature: Positive = 0.07
    d_projected: Count = 128
    """Width of what is compared; the hidden layer before it is as wide as the network's features."""


class ByolPlan(Plan, frozen=True):
    """One view foretells what a slower copy of the network makes of the other (Grill et al. 2020, arXiv:2006.07733)."""

    decay: Share = 0.999
    """How much of itself the slow copy keeps at each step."""
    d_hidden: Count = 512
    d_projected: Count = 128


class CpcPlan(Plan, frozen=True):
    """What a stream has shown so far foretells frames to come (van den Oord et al. 2018, arXiv:1807.03748)."""

    batch_size: Count = 64
    weight_decay: Annotated[float, msgspec.Meta(ge=0.0)] = 1e-2
    temperature: Positive = 0.1
    reach_s: Positive = 1.0
    """How far ahead the last frame that is foretold lies."""
    predictions: Count = 12
    """How many frames up to there are foretold, evenly spaced."""
    moments: Count = 8
    """At how many moments of each crop; every other moment and crop of the batch is what it might be confused with."""


class Plans(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The methods a preset has a plan for."""

    masked_clusters: MaskedClustersPlan | None = None
    simclr: SimClrPlan | None = None
    byol: ByolPlan | None = None
    cpc: CpcPlan | None = None

    def stated(self) -> dict[str, Plan]:
        """Return the plans that the preset has, by method."""
        return {name: plan for name in self.__struct_fields__ if (plan := getattr(self, name)) is not None}


DEFAULTS: dict[str, Plan] = {
    "masked_clusters": MaskedClustersPlan(), "simclr": SimClrPlan(), "byol": ByolPlan(), "cpc": CpcPlan(),
}  # fmt: skip
"""The methods, and what each does where a preset says nothing of it."""
FITS = {"masked_clusters": "hubert-ecg", "cpc": "mamba"}
"""The only kind of network that a method is for, where it is not for all."""
