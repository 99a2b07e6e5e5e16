"""NVIDIA's compilers, as PyPI has them for machines without a GPU: TensorRT for RTX and the assembler of PTX."""

from __future__ import annotations

import importlib.util
import os
import platform
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import NoReturn

import pytest


def tensorrt_rtx() -> ModuleType:
    """Import TensorRT for RTX."""
    if importlib.util.find_spec("tensorrt_rtx") is None:
        _not_checked("tensorrt-rtx is not installed: whether the graphs compile for GPUs is not checked")
    return import_module("tensorrt_rtx")


def ptxas() -> Path:
    """Return the assembler."""
    package = importlib.util.find_spec("nvidia.cuda_nvcc") if importlib.util.find_spec("nvidia") else None
    if package is None or package.submodule_search_locations is None:
        _not_checked("nvidia-cuda-nvcc-cu12 is not installed: whether the PTX assembles is not checked")
    return Path(next(iter(package.submodule_search_locations)), "bin", "ptxas")


def _not_checked(reason: str) -> NoReturn:
    """Leave a test out, but in CI fail on the kind of machine that these packages are made for."""
    if os.environ.get("CI") and platform.machine() == "x86_64":
        pytest.fail(reason)
    pytest.skip(reason)
