"""The folder that a daemon keeps its state in, which is one daemon's at a time."""

from __future__ import annotations

import fcntl
from io import FileIO
from pathlib import Path

from edge.errors import StorageError

LOCK_NAME = "lock"


def lock_state_dir(path: Path) -> FileIO:
    """Make the folder if need be and return its lock, held until it is closed or the process ends, however it does.

    Raises StorageError when it cannot be made or written to, or when another daemon has it: two of them would send
    every alert twice and overwrite each other's snapshots.
    """
    try:
        path.mkdir(parents=True, exist_ok=True)
        lock = FileIO(path / LOCK_NAME, "w")
    except OSError as error:
        raise StorageError(
            f"state directory {path}: {error.strerror}; set node.state_dir to a writable folder"
        ) from None
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        lock.close()
        raise StorageError(
            f"state directory {path} is in use by another daemon; stop it, or give each its own node.state_dir"
        ) from None
    except OSError as error:
        lock.close()
        raise StorageError(
            f"state directory {path} cannot be locked: {error.strerror}; choose a folder on a local disk"
        ) from None
    return lock
