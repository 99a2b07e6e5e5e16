"""The shipped PTX passes NVIDIA's own assembler for every target, on a machine that has no GPU."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from edge.runtime.tensorrt.rows import PTX
from tests import nvidia_tools

ARCHITECTURES = ["sm_75", "sm_86", "sm_87", "sm_90", "sm_101"]
"""T4, a desktop GPU, Orin, a data-centre GPU, and Thor by the name it has in CUDA 12."""


@pytest.fixture(scope="module")
def ptxas() -> Path:
    return nvidia_tools.ptxas()


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_the_kernels_assemble_without_a_warning_and_spill_nothing(
    ptxas: Path, architecture: str, tmp_path: Path
) -> None:
    said = assemble(ptxas, architecture, PTX, tmp_path)
    assert said.returncode == 0, said.stderr
    assert {"gather", "scatter"} <= set(said.stderr.replace("'", " ").split())
    assert "warning" not in said.stderr
    assert said.stderr.count("0 bytes spill stores, 0 bytes spill loads") == 2


def test_a_fault_in_the_ptx_would_be_found(ptxas: Path, tmp_path: Path) -> None:
    broken = PTX.replace("mul.wide.s32", "mul.wide.s64", 1)
    assert assemble(ptxas, ARCHITECTURES[0], broken, tmp_path).returncode != 0


def assemble(ptxas: Path, architecture: str, ptx: str, folder: Path) -> subprocess.CompletedProcess[str]:
    source = folder / "rows.ptx"
    source.write_text(ptx)
    command = [ptxas, "-v", f"-arch={architecture}", source, "-o", folder / "rows.cubin"]
    return subprocess.run(command, capture_output=True, text=True, check=False)
