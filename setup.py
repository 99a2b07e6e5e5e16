"""Builds the optional C kernels; everything else about the package stands in pyproject.toml.

The sources of the scan and of the native runtime are compiled once per vector width; the right one is chosen when it
is loaded. The front-end's is compiled once, without fused multiply-adds, so that it rounds as NumPy does. Where there
is no compiler the package installs all the same: PyTorch, ONNX Runtime and NumPy do the work.
"""

from __future__ import annotations

import platform
from pathlib import Path

from setuptools import Extension, setup

WIDTHS = {"_scan_base": (4, [])}
if platform.machine() in ("x86_64", "AMD64"):
    WIDTHS |= {"_scan_v3": (8, ["-march=x86-64-v3"]), "_scan_v4": (16, ["-march=x86-64-v4"])}

HOP_FLAGS = ["-O3", "-ffp-contract=fast", "-fno-math-errno", "-fvisibility=hidden", "-Wno-psabi"]
AVX512 = ["-mavx512f", "-mavx512bw", "-mavx512dq", "-mavx512vl"]
HOP_WIDTHS = {"_hop_base": (4, [])}
if platform.machine() in ("x86_64", "AMD64"):
    HOP_WIDTHS |= {"_hop_avx2": (8, ["-mavx2", "-mfma"]), "_hop_avx512": (16, ["-mavx2", "-mfma", *AVX512])}

FRONTEND = Extension(
    "edge.signal._frontend",
    sources=["edge/signal/kernels/frontend.c"],
    depends=["edge/signal/kernels/buffers.h", "edge/signal/kernels/quality.h"],
    extra_compile_args=["-O3", "-ffp-contract=off"],
    optional=True,
)

setup(
    ext_modules=[
        FRONTEND,
        *(
            Extension(
                f"trainer.{name}",
                sources=sorted(map(str, Path("trainer/kernels").glob("*.c"))),
                depends=["trainer/kernels/vector.h", "edge/runtime/kernels/vector.h"],
                define_macros=[("LANES", str(lanes)), ("MODULE", name)],
                extra_compile_args=["-O3", "-ffp-contract=fast", "-fno-math-errno", "-Wno-psabi", *flags],
                optional=True,
            )
            for name, (lanes, flags) in WIDTHS.items()
        ),
        *(
            Extension(
                f"edge.runtime.{name}",
                sources=sorted(map(str, Path("edge/runtime/kernels").glob("*.c"))),
                depends=sorted(map(str, Path("edge/runtime/kernels").glob("*.h"))),
                define_macros=[("LANES", str(lanes)), ("MODULE", name)],
                extra_compile_args=[*HOP_FLAGS, *flags],
                optional=True,
            )
            for name, (lanes, flags) in HOP_WIDTHS.items()
        ),
    ]
)
