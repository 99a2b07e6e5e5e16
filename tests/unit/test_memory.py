"""Memory that training keeps: in a process of its own, since the setting lasts as long as the process."""

from __future__ import annotations

import platform
import subprocess
import sys

import pytest

SCRIPT = """
import resource, sys
import torch
from trainer.memory import keep_freed_memory

assert sys.argv[1] == "as it is" or keep_freed_memory()
def step():
    return [torch.ones(10_000_000) for _ in range(2)]  # 40 MB each: more than malloc ever learns to keep by itself
for _ in range(12):  # until malloc has found a place for all
    step()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(12):
    step()
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def pages_asked_for_again(how: str) -> int:
    run = subprocess.run([sys.executable, "-c", SCRIPT, how], capture_output=True, text=True, timeout=60, check=True)
    return int(run.stdout)


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only glibc's malloc has these settings")
def test_a_step_uses_the_pages_that_the_one_before_it_freed():
    assert pages_asked_for_again("kept") * 4 < pages_asked_for_again("as it is")
