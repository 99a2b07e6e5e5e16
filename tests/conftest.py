"""Fixtures that every kind of test shares: where real ECG stands, and how many threads compute."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import settings

# One thread: the tests' arrays are small, and threads that wait for one another on a busy machine take minutes.
os.environ.setdefault("OMP_NUM_THREADS", "1")

# No deadline: how long an example takes says more about the machine than about the code.
settings.register_profile("ecg-edge", deadline=None)
settings.load_profile("ecg-edge")

PTBXL_VARIABLE = "PTBXL_ROOT"


@pytest.fixture(scope="session")
def ptbxl_root() -> Path:
    """The folder of PTB-XL (records100, records500, ptbxl_database.csv), named by PTBXL_ROOT."""
    named = os.environ.get(PTBXL_VARIABLE)
    if not named:
        pytest.skip(f"{PTBXL_VARIABLE} is not set: tests on real ECG need a copy of PTB-XL")
    root = Path(named)
    if not (root / "ptbxl_database.csv").is_file():
        pytest.fail(f"{PTBXL_VARIABLE}={root} holds no ptbxl_database.csv")
    return root


@pytest.fixture
def one_thread() -> Iterator[None]:
    """Let PyTorch compute in one thread: the same sums in the same order, on any machine."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)
