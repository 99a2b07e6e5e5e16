"""The systemd unit, judged by systemd's own tools."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

UNIT = Path(__file__).parents[2] / "systemd" / "ecg-edge.service"
GPU = UNIT.with_name("gpu.conf")
MOST_EXPOSURE = 1.5
PR_SET_MDWE = 65  # prctl(2), Linux 6.3 and later: what MemoryDenyWriteExecute= does

needs_systemd = pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="systemd-analyze is not installed")


def analyze(*arguments: str, path: Path | None = None) -> subprocess.CompletedProcess[str]:
    """Run systemd-analyze; with a path as if units and their settings were installed there."""
    where = {} if path is None else {"SYSTEMD_UNIT_PATH": f"{path}:"}  # the colon: and where they are otherwise
    command = ["systemd-analyze", "--no-pager", *arguments]
    return subprocess.run(command, env=os.environ | where, capture_output=True, text=True, check=False)


@needs_systemd
def test_the_service_is_hardly_exposed() -> None:
    judged = analyze("security", "--offline=true", str(UNIT))
    found = re.search(r"Overall exposure level for ecg-edge\.service: ([\d.]+)", judged.stdout)
    assert found, judged.stdout + judged.stderr
    assert float(found[1]) <= MOST_EXPOSURE


@needs_systemd
def test_systemd_has_nothing_to_say_against_the_unit(tmp_path: Path) -> None:
    """The program need not be installed where tests run, so the copy verified names one that is."""
    installed = tmp_path / UNIT.name
    installed.write_text(UNIT.read_text().replace("/opt/ecg-edge/bin/ecg-edge", sys.executable))
    verified = analyze("verify", "--man=false", str(installed))
    about_us = [line for line in verified.stderr.splitlines() if "ecg-edge" in line]
    assert (verified.returncode, about_us) == (0, [])


@needs_systemd
def test_a_fault_in_the_unit_would_be_found(tmp_path: Path) -> None:
    broken = tmp_path / UNIT.name
    broken.write_text(UNIT.read_text().replace("Type=notify", "Type=notifi"))
    assert "ecg-edge.service" in analyze("verify", "--man=false", str(broken)).stderr


@needs_systemd
def test_systemd_takes_the_unit_with_the_gpu_s_settings(tmp_path: Path) -> None:
    (tmp_path / UNIT.name).write_text(UNIT.read_text().replace("/opt/ecg-edge/bin/ecg-edge", sys.executable))
    settings = tmp_path / f"{UNIT.name}.d" / GPU.name
    settings.parent.mkdir()
    settings.write_text(GPU.read_text().replace("/opt/ecg-edge/bin/ecg-export", sys.executable))
    verified = analyze("verify", "--man=false", str(tmp_path / UNIT.name), path=tmp_path)
    assert (verified.returncode, [line for line in verified.stderr.splitlines() if "ecg-edge" in line]) == (0, [])
    settings.write_text(GPU.read_text().replace("DevicePolicy=auto", "DevicePolicy=all"))
    assert "device policy" in analyze("verify", "--man=false", str(tmp_path / UNIT.name), path=tmp_path).stderr


def test_inference_libraries_work_without_writable_code() -> None:
    program = (
        "import ctypes, sys\n"
        f"if ctypes.CDLL(None).prctl({PR_SET_MDWE}, 1, 0, 0, 0) != 0: sys.exit(77)\n"
        "import numpy, scipy.signal, onnxruntime, ssl, sqlite3, paho.mqtt.client\n"
        "numpy.linalg.inv(numpy.eye(3))\n"
        "scipy.signal.sosfilt(numpy.eye(1, 6) + numpy.eye(1, 6, 3), numpy.ones(8))\n"
    )
    ended = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    if ended.returncode == 77:
        pytest.skip("this kernel cannot forbid writable code (before Linux 6.3)")
    assert ended.returncode == 0, ended.stderr
