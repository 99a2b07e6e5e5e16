"""Which runtimes there are, which of them work here, and opening one."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from edge.errors import RuntimeUnavailableError
from edge.runtime import onnx
from edge.runtime.base import Runtime
from edge.runtime.bundle import Bundle

AUTO = "auto"


@dataclass(frozen=True)
class RuntimeKind:
    """A runtime by name: `probe` raises RuntimeUnavailableError where it cannot work, `open` takes (bundle, threads)."""

    name: str
    probe: Callable[[], object]
    open: Callable[[Bundle, int], Runtime]


RUNTIMES = (RuntimeKind(onnx.NAME, onnx.import_onnxruntime, onnx.OnnxRuntime),)
"""Every runtime, the one to prefer first: `auto` takes the first that works."""

KINDS = (AUTO, *(runtime.name for runtime in RUNTIMES))


def available_runtimes() -> list[tuple[str, str | None]]:
    """Return every runtime by name, with None where it works and otherwise with the reason why not."""
    return [(runtime.name, _problem(runtime)) for runtime in RUNTIMES]


def open_runtime(bundle: Bundle, kind: str = AUTO, threads: int = 1) -> Runtime:
    """Open a bundle in the named runtime, or in the first that works.

    Raises RuntimeUnavailableError when there is none, BundleError when the bundle does not fit.
    """
    reasons = []
    for runtime in RUNTIMES:
        if kind not in (AUTO, runtime.name):
            continue
        problem = _problem(runtime)
        if problem is None:
            return runtime.open(bundle, threads)
        reasons.append(problem)
    raise RuntimeUnavailableError(kind, "; ".join(reasons) or f"no such runtime (there are: {', '.join(KINDS)})")


def _problem(runtime: RuntimeKind) -> str | None:
    try:
        runtime.probe()
    except RuntimeUnavailableError as error:
        return error.why
    return None
