"""A model's engine for the device that is here: found in the cache, or built into it.

A daemon only looks. A build takes minutes, in which a monitor had better watch its patients on the CPU; building is
the work of `ecg-export tensorrt`, which calls the same code.
"""

from __future__ import annotations

from dataclasses import dataclass
from importlib import import_module
from types import ModuleType
from typing import Any

from edge.errors import BundleError, RuntimeUnavailableError, StorageError
from edge.runtime.bundle import Bundle
from edge.runtime.graph_file import read_graph
from edge.runtime.manifest import GRAPHS
from edge.runtime.tensorrt.build import EngineBuildError, build_engine
from edge.runtime.tensorrt.cache import EngineCache, EngineFileError
from edge.runtime.tensorrt.complaints import complaints_of
from edge.runtime.tensorrt.fit import misfit
from edge.runtime.tensorrt.key import batch_profiles, engine_key
from edge.runtime.tensorrt.targets import NAME, Device

OLDEST = (10, 3)
"""JetPack 6.1 and 6.2 have this one."""

INSTALL_IT = "on a Jetson apt install python3-libnvinfer-dev, elsewhere pip install tensorrt-cu12 (or -cu13)"
BUILD_IT = "build it on this device: ecg-export tensorrt"


@dataclass(frozen=True)
class OpenedEngine:
    """An engine ready for execution contexts. `keeps` are the objects it must not outlive."""

    engine: Any
    keeps: tuple[object, ...]


def import_tensorrt() -> ModuleType:
    """Import TensorRT, or raise RuntimeUnavailableError with what to do."""
    try:
        trt = import_module("tensorrt")
    except (ImportError, OSError) as error:  # OSError: its libraries are there but cannot be loaded
        raise RuntimeUnavailableError(NAME, f"{_one_line(error)}; {INSTALL_IT}") from None
    version = str(trt.__version__)
    if tuple(int(part) for part in version.split(".")[:2]) < OLDEST:
        raise RuntimeUnavailableError(NAME, f"TensorRT {version} is older than {OLDEST[0]}.{OLDEST[1]}")
    return trt


class Engines:
    """The engines of one bundle on one device in one precision.

    Every method, and making one, needs a current CUDA context and raises RuntimeUnavailableError, in one line, where
    the thing cannot be done.
    """

    def __init__(self, trt: ModuleType, bundle: Bundle, device: Device, precision: str, cache: EngineCache) -> None:
        if GRAPHS[precision] not in bundle.manifest.files:
            advice = "export it again, or add the graph: ecg-export precision BUNDLE"
            raise RuntimeUnavailableError(NAME, f"the bundle has no {precision} graph ({GRAPHS[precision]}); {advice}")
        self.key = engine_key(bundle.manifest, precision, str(trt.__version__), device)
        self._trt, self._bundle, self._cache = trt, bundle, cache
        self._complaints = complaints_of(trt)
        self._complaints.forget()
        try:
            self._runtime = trt.Runtime(self._complaints.logger)
        except TypeError:  # what the bindings make of a library that cannot start
            raise RuntimeUnavailableError(NAME, f"TensorRT does not start: {self._complaints.last}") from None

    def load(self) -> OpenedEngine:
        """Return the engine from the cache."""
        try:
            plan = self._cache.load(self.key)
        except StorageError as error:
            raise RuntimeUnavailableError(NAME, str(error)) from None
        except EngineFileError as error:
            raise RuntimeUnavailableError(NAME, f"{error}; {BUILD_IT}") from None
        if plan is None:
            raise RuntimeUnavailableError(NAME, f"{self._absence()}; {BUILD_IT}")
        engine = self._open(plan)
        if engine is None:
            file = self._cache.path(self.key).name
            raise RuntimeUnavailableError(NAME, f"engine {file}: does not load: {self._complaints.last}; {BUILD_IT}")
        if problem := misfit(self._trt, self._bundle.manifest, engine.engine):
            raise RuntimeUnavailableError(NAME, f"the engine does not fit the model: {problem}; build it again")
        return engine

    def build(self) -> OpenedEngine:
        """Build the engine, see that it loads and fits, and put it into the cache.

        Raises StorageError when the cache cannot be used.
        """
        profiles = batch_profiles(self._bundle.manifest)
        try:
            built = build_engine(self._trt, self._graph(), profiles, self._cache.load_timings(self.key))
        except EngineBuildError as error:
            raise RuntimeUnavailableError(NAME, str(error)) from None
        engine = self._open(built.engine)
        if engine is None:
            raise RuntimeUnavailableError(NAME, f"the engine just built does not load: {self._complaints.last}")
        if problem := misfit(self._trt, self._bundle.manifest, engine.engine):
            raise RuntimeUnavailableError(NAME, f"the engine just built does not fit the model: {problem}")
        self._cache.store(self.key, built.engine)
        self._cache.store_timings(self.key, built.timings)
        return engine

    def _open(self, plan: bytes) -> OpenedEngine | None:
        self._complaints.forget()
        engine = self._runtime.deserialize_cuda_engine(plan)
        return None if engine is None else OpenedEngine(engine, (self._runtime,))

    def _graph(self) -> bytes:
        try:
            return read_graph(self._bundle, GRAPHS[self.key.precision])
        except BundleError as error:
            raise RuntimeUnavailableError(NAME, error.problem) from None

    def _absence(self) -> str:
        """Say that there is no engine, and what the ones that are there were built for."""
        key = self.key
        wanted = f"no engine for SM {key.sm}, TensorRT {key.tensorrt}, {key.precision} in {self._cache.folder}"
        kept = [other for other in self._cache.kept() if other.graph_sha256 == key.graph_sha256]
        others = ", ".join(f"SM {other.sm} with TensorRT {other.tensorrt}" for other in kept)
        return f"{wanted} (there is one for {others})" if others else wanted


def _one_line(text: object) -> str:
    return " ".join(str(text).split())
