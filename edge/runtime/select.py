"""Which runtimes there are, which of them run a bundle here, and opening one."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable

from edge.errors import EcgEdgeError, RuntimeUnavailableError
from edge.runtime import onnx
from edge.runtime.base import Runtime
from edge.runtime.bundle import Bundle
from edge.runtime.manifest import WINDOWED
from edge.runtime.native import NativeRuntime
from edge.runtime.native_build import NAME as NATIVE
from edge.runtime.tensorrt.runtime import TensorRtRuntime
from edge.runtime.windowed import WindowedRuntime

AUTO = "auto"


def open_onnxruntime(bundle: Bundle, threads: int) -> Runtime:
    """Open a bundle of either kind in ONNX Runtime, which alone runs both."""
    return (WindowedRuntime if bundle.manifest.kind == WINDOWED else onnx.OnnxRuntime)(bundle, threads)


RUNTIMES: dict[str, Callable[[Bundle, int], Runtime]] = {
    NATIVE: NativeRuntime,
    onnx.NAME: open_onnxruntime,
    TensorRtRuntime.name: TensorRtRuntime,  # after what runs on a CPU: whoever wants the GPU says so
}
"""Every runtime by name, the one to prefer first; each takes (bundle, threads) and raises RuntimeUnavailableError where
it cannot work. A new runtime is a module beside `onnx` and a line here."""

KINDS = (AUTO, *RUNTIMES)

_log = logging.getLogger(__name__)


def available_runtimes(bundle: Bundle) -> list[tuple[str, str | None]]:
    """Return every runtime by name, with None where it opens the bundle and otherwise with the reason why not."""
    return [(name, _problem(name, bundle)) for name in RUNTIMES]


def open_runtime(bundle: Bundle, kind: str = AUTO, threads: int = 1) -> Runtime:
    """Open a bundle in the named runtime or, with "auto", in the first that works on this machine.

    One line in the log says why an earlier one does not. Raises RuntimeUnavailableError when there is none, BundleError
    when the bundle does not fit the runtime.
    """
    if kind != AUTO and kind not in RUNTIMES:
        raise RuntimeUnavailableError(kind, f"no such runtime; there are {', '.join(KINDS)}")
    return _first_that_works(kind, _preferred(bundle) if kind == AUTO else [kind], bundle, threads)


def open_or_fall_back(bundle: Bundle, kind: str = AUTO, threads: int = 1) -> Runtime:
    """Open a bundle in the named runtime or, where that cannot work, in the first that does, with one line in the log.

    What a daemon does: a GPU that is gone is no reason to leave patients unwatched. Raises as `open_runtime` does, when
    no runtime works or none has that name.
    """
    if kind not in RUNTIMES:
        return open_runtime(bundle, kind, threads)
    return _first_that_works(kind, dict.fromkeys([kind, *_preferred(bundle)]), bundle, threads)


def _preferred(bundle: Bundle) -> list[str]:
    """Return the runtimes that may run a bundle, the one to prefer first."""
    return [onnx.NAME] if bundle.manifest.kind == WINDOWED else list(RUNTIMES)


def _first_that_works(kind: str, names: Iterable[str], bundle: Bundle, threads: int) -> Runtime:
    """Open a bundle in the first of these runtimes that takes it; raises RuntimeUnavailableError of what was asked."""
    passed_over: list[RuntimeUnavailableError] = []
    for name in names:
        try:
            runtime = RUNTIMES[name](bundle, threads)
        except RuntimeUnavailableError as error:
            passed_over.append(error)
            continue
        if passed_over:
            _log.warning("%s; %s runs instead", "; ".join(map(str, passed_over)), runtime.name)
        return runtime
    raise RuntimeUnavailableError(kind, "; ".join(error.why for error in passed_over))


def _problem(name: str, bundle: Bundle) -> str | None:
    try:
        RUNTIMES[name](bundle, 1)
    except RuntimeUnavailableError as error:
        return error.why
    except EcgEdgeError as error:
        return str(error)
    return None
