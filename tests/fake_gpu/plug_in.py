"""Puts the GPU that is not there where the real one would be."""

from __future__ import annotations

import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from edge.errors import RuntimeUnavailableError
from edge.runtime.bundle import Bundle
from edge.runtime.tensorrt import runtime as tensorrt_runtime
from edge.runtime.tensorrt.cache import FOLDER_VARIABLE, EngineCache
from edge.runtime.tensorrt.device import CudaDevice
from edge.runtime.tensorrt.engine import Engines, import_tensorrt
from edge.runtime.tensorrt.targets import default_precision
from tests.fake_gpu.machine import Machine
from tests.fake_gpu.pycuda_driver import FakeLibcuda, driver_module
from tests.fake_gpu.tensorrt import tensorrt_module


def plug_in(patch: pytest.MonkeyPatch, machine: Machine, cache: Path) -> None:
    """Let `tensorrt`, `pycuda.driver` and the driver's library be the machine's, and keep engines in `cache`."""
    pycuda: Any = ModuleType("pycuda")
    pycuda.driver = driver_module(machine)
    patch.setitem(sys.modules, "pycuda", pycuda)
    patch.setitem(sys.modules, "pycuda.driver", pycuda.driver)
    patch.setitem(sys.modules, "tensorrt", tensorrt_module(machine))
    library = FakeLibcuda(machine)
    patch.setattr(tensorrt_runtime, "load_driver", lambda: library)
    patch.setenv(FOLDER_VARIABLE, str(cache))


def build_engine_here(bundle: Bundle) -> None:
    """Put a bundle's engine into the cache where it is not there yet, as `ecg-export tensorrt` does."""
    device = CudaDevice()
    precision = default_precision(device.facts)
    with device.current():
        engines = Engines(import_tensorrt(), bundle, device.facts, precision, EngineCache())
        try:
            engines.load()
        except RuntimeUnavailableError:
            engines.build()
