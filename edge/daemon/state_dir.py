"""The folder that a daemon keeps its state in, which is one daemon's at a time."""

from __future__ import annotations

import errno
import fcntl
from io import FileIO
from pathlib import Path

from edge.errors import DiskError, StorageError

LOCK_NAME = "lock"
OF_THE_DISK = frozenset({errno.EROFS, errno.ENOSPC, errno.EDQUOT, errno.EIO})


def lock_state_dir(path: Path) -> FileIO:
    """Make the folder if need be and return its lock, held until it is closed or the process ends, however it does.

    Raises DiskError for a disk that is full, read-only or broken; StorageError when the folder cannot be made
    otherwise, or when another daemon has it: two of them would send every alert twice and overwrite each other's
    snapshots.
    """
    try:
        path.mkdir(parents=True, exist_ok=True)
        lock = FileIO(path / LOCK_NAME, "w")
    except OSError as error:
        kind = DiskError if error.errno in OF_THE_DISK else StorageError
        raise kind(f"state directory {path}: {error.strerror}; set node.state_dir to a writable folder") from None
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
