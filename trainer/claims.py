"""What is claimed of a network: data in its preset, held against what was measured here."""

from __future__ import annotations

from typing import Any, Literal

import msgspec

MACRO = "macro"


class Claim(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A figure that a preset should reach on the tuning fold."""

    figure: Literal["auc", "auprc", "accuracy"]
    of: str = MACRO
    """A class, or macro for the mean of all; accuracy is of all anyway."""
    more_than: float | None = None
    at_least: float | None = None
    source: str = ""

    def __post_init__(self) -> None:
        """Raises ValueError, which msgspec reports with the place, unless there is one bound."""
        if (self.more_than is None) == (self.at_least is None):
            raise ValueError("a claim needs either more_than or at_least")
        if self.figure == "accuracy" and self.of != MACRO:
            raise ValueError("accuracy is of all classes")

    @property
    def words(self) -> str:
        """The claim in a few words, such as `NORM AUC > 0.915`."""
        names = {"auc": "AUC", "auprc": "average precision", "accuracy": "accuracy"}
        subject = names[self.figure] if self.figure == "accuracy" else f"{self.of} {names[self.figure]}"
        return f"{subject} > {self.more_than:g}" if self.more_than is not None else f"{subject} ≥ {self.at_least:g}"


class Verdict(msgspec.Struct, frozen=True):
    """A claim and what was measured; a figure that was not is not reached."""

    claim: str
    source: str
    value: float | None
    reached: bool


def verdict(claim: Claim, report: dict[str, Any]) -> Verdict:
    """Hold a claim against a report, as `trainer.compare.report` writes one."""
    if claim.figure == "accuracy" or claim.of == MACRO:
        value = report.get("accuracy" if claim.figure == "accuracy" else f"{MACRO}_{claim.figure}")
    else:
        value = report["per_class"].get(claim.of, {}).get(claim.figure)
    return Verdict(claim.words, claim.source, value, value is not None and _holds(claim, value))


def _holds(claim: Claim, value: float) -> bool:
    return value > claim.more_than if claim.more_than is not None else value >= (claim.at_least or 0.0)
