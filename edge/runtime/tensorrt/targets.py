"""The GPUs an engine is built for, and what each computes projections in."""

from __future__ import annotations

from dataclasses import dataclass

NAME = "tensorrt"
"""What this runtime is called in a configuration."""

CURRENT = "current"
"""The target that is whatever is here."""

TARGETS: dict[str, frozenset[tuple[int, int]]] = {
    "t4": frozenset({(7, 5)}),
    "orin": frozenset({(8, 7)}),
    "thor": frozenset({(10, 1), (11, 0)}),  # CUDA 12 called it 10.1, CUDA 13 calls it 11.0
}
"""Target → the compute capabilities (SM) it goes by."""

LAST_FLOAT16_ONLY = (7, 5)
"""Up to Turing the newest compilers know no float32 matrix product, and say so when asked for one."""


@dataclass(frozen=True)
class Device:
    """What a GPU is known by."""

    name: str
    sm: tuple[int, int]

    @property
    def sm_name(self) -> str:
        """The compute capability as it is written: "8.7"."""
        return f"{self.sm[0]}.{self.sm[1]}"

    def is_a(self, target: str) -> bool:
        """Whether this is what a target names."""
        return target == CURRENT or self.sm in TARGETS[target]


def default_precision(device: Device) -> str:
    """Return what a device computes projections in unless told otherwise."""
    return "fp16" if device.sm <= LAST_FLOAT16_ONLY else "fp32"
