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

GIVEN_BACK = """
import resource
import sys
import torch
from trainer.memory import give_back_freed_memory, keep_freed_memory

def resident_mb():
    return int(open("/proc/self/statm").read().split()[1]) * resource.getpagesize() / 1e6

assert keep_freed_memory()
kept = [torch.ones(1_000_000) for _ in range(100)]  # 4 MB each
kept = kept[::10]  # what stays lies between what goes
full = resident_mb()
assert give_back_freed_memory()
print(full - resident_mb())
"""


def pages_asked_for_again(how: str) -> int:
    run = subprocess.run([sys.executable, "-c", SCRIPT, how], capture_output=True, text=True, timeout=60, check=True)
    return int(run.stdout)


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only glibc's malloc has these settings")
def test_a_step_uses_the_pages_that_the_one_before_it_freed():
    assert pages_asked_for_again("kept") * 4 < pages_asked_for_again("as it is")


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only glibc's malloc gives memory back by itself")
def test_what_lies_free_between_blocks_in_use_goes_back_to_the_system():
    run = subprocess.run([sys.executable, "-c", GIVEN_BACK], capture_output=True, text=True, timeout=60, check=True)
    assert float(run.stdout) > 250  # of 360 MB
