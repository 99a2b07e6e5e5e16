"""The machine that figures belong to: without it they say nothing."""

from __future__ import annotations

import os
import platform
from datetime import datetime, timezone
from importlib import metadata
from pathlib import Path
from typing import Any

from edge import __version__
from edge.runtime.bundle import Bundle

PACKAGES = ("numpy", "onnxruntime", "paho-mqtt", "torch", "transformers")
BUSY_LOAD = 0.25
"""Per core: from here on other work disturbs what is measured."""


def describe_machine() -> dict[str, Any]:
    """Return processor, cores, memory, versions, how busy the machine is, and the date."""
    return {
        "date": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "processor": processor(),
        "cores": len(os.sched_getaffinity(0)),
        "memory_gb": os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 1e9,
        "load_average": os.getloadavg()[0],
        "system": f"{platform.system()} {platform.release()} {platform.machine()}",
        "python": platform.python_version(),
        "ecg_edge": __version__,
        "packages": {name: version for name in PACKAGES if (version := _version(name)) is not None},
    }


def describe_model(bundle: Bundle) -> dict[str, Any]:
    """Return what model it was that was measured."""
    manifest = bundle.manifest
    return {
        "name": manifest.name,
        "version": manifest.version,
        "hash": manifest.model_hash,
        "kind": manifest.kind,
        "hop_s": manifest.hop_s,
        "window_s": manifest.window_s,
    }


def busy(machine: dict[str, Any]) -> str | None:
    """Return a warning when others use the machine, else None."""
    load, cores = machine["load_average"], machine["cores"]
    if load <= BUSY_LOAD * cores:
        return None
    return f"this machine is busy (load {load:.1f} on {cores} cores): times will be too long, ratios less so"


def processor() -> str:
    """Return the processor's name as the kernel knows it."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    names = (line.partition(":")[2].strip() for line in lines if line.startswith(("model name", "Model\t")))
    return next(names, platform.processor() or platform.machine())


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None
