"""`ecg-export tensorrt`: build a bundle's engine on the device that runs it. Needs neither PyTorch nor onnx."""

from __future__ import annotations

import argparse
import time
from pathlib import Path

from edge.cli.output import EXIT_OK, emit_json, say
from edge.cli.parsing import Subparsers, add_command
from edge.errors import RuntimeUnavailableError
from edge.runtime.base import require_recurrent
from edge.runtime.bundle import load_bundle
from edge.runtime.manifest import GRAPHS
from edge.runtime.tensorrt.cache import EngineCache
from edge.runtime.tensorrt.device import CudaDevice
from edge.runtime.tensorrt.engine import Engines, import_tensorrt
from edge.runtime.tensorrt.targets import CURRENT, NAME, TARGETS, Device, default_precision


def add_parser(subparsers: Subparsers) -> None:
    """Add the command."""
    parser = add_command(
        subparsers,
        "tensorrt",
        run,
        "build the TensorRT engine of a bundle, on the device that runs it",
        "An engine fits one kind of GPU and one version of TensorRT, so it is built where it runs, once, and kept in a "
        "cache that the daemon reads. --target says what this device should be and stops where it is another.",
        [
            "ecg-export tensorrt --target orin",
            "ecg-export tensorrt bundles/mine --target t4 --precision fp16 --engine-cache /var/cache/ecg-edge/engines",
        ],
    )
    parser.add_argument("bundle", type=Path, nargs="?", metavar="BUNDLE", help="the bundle (default: the shipped one)")
    parser.add_argument("--target", choices=[*TARGETS, CURRENT], default=CURRENT, help="default: %(default)s")
    parser.add_argument("--precision", choices=list(GRAPHS), help="default: fp16 up to SM 7.5 (T4), else fp32")
    parser.add_argument("--engine-cache", type=Path, metavar="DIR", help="default: where a daemon of this user looks")
    parser.add_argument("--rebuild", action="store_true", help="build it although one that fits is there")


def run(args: argparse.Namespace) -> int:
    """Build the engine, or find it in the cache, and say where it is."""
    bundle, cache = load_bundle(args.bundle), EngineCache(args.engine_cache)
    require_recurrent(NAME, bundle.manifest)
    trt, device = import_tensorrt(), CudaDevice()
    check_target(args.target, device.facts)
    precision = args.precision or default_precision(device.facts)
    begun_s = time.monotonic()
    with device.current():
        engines = Engines(trt, bundle, device.facts, precision, cache)
        built = args.rebuild or not _is_there(engines)
        if built:
            say(f"building for {device.facts.name}, SM {engines.key.sm}, {precision}: this takes a while")
            engines.build()
    path = cache.path(engines.key)
    if args.json:
        emit_json(
            {
                "engine": path,
                "bytes": path.stat().st_size,
                "built": built,
                "seconds": round(time.monotonic() - begun_s, 2),
                "device": device.facts.name,
                "key": engines.key,
            }
        )
    else:
        say(f"{'built' if built else 'found'} {path}")
    return EXIT_OK


def check_target(target: str, device: Device) -> None:
    """Raise RuntimeUnavailableError unless the device is what the target names."""
    if not device.is_a(target):
        wanted = " or ".join(f"SM {major}.{minor}" for major, minor in sorted(TARGETS[target]))
        raise RuntimeUnavailableError(
            NAME,
            f"{target} means {wanted}, and this is {device.name} with SM {device.sm_name}; an engine is built on the "
            f"device that runs it (--target {CURRENT} takes whatever is here)",
        )


def _is_there(engines: Engines) -> bool:
    """Whether the cache has an engine that loads; one that is damaged is built anew like one that is missing."""
    try:
        engines.load()
    except RuntimeUnavailableError:
        return False
    return True
