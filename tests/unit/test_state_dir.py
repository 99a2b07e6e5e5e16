"""The state folder: one daemon at a time, and a clear line for the second."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from edge.daemon.state_dir import lock_state_dir
from edge.errors import StorageError

HOLD = """
import sys
from pathlib import Path
from edge.daemon.state_dir import lock_state_dir
held = lock_state_dir(Path(sys.argv[1]))
print("held", flush=True)
sys.stdin.read()
"""


def test_a_second_daemon_is_refused_until_the_first_has_ended_however_it_does(tmp_path: Path) -> None:
    folder = tmp_path / "a" / "state"
    with subprocess.Popen(
        [sys.executable, "-c", HOLD, str(folder)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as first:
        assert first.stdout is not None
        assert first.stdout.readline() == "held\n"
        with pytest.raises(StorageError, match="in use by another daemon"):
            lock_state_dir(folder)
        first.kill()
    lock_state_dir(folder).close()
    lock_state_dir(folder).close()


def test_a_folder_that_cannot_be_made_is_one_clear_line(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(StorageError, match=r"set node\.state_dir to a writable folder"):
        lock_state_dir(tmp_path / "file" / "state")
