"""The systemd journal as a reader of our output: it takes a line's priority from its beginning (sd-daemon(3))."""

from __future__ import annotations

import os
from typing import IO

JOURNAL_VARIABLE = "JOURNAL_STREAM"
ERROR_PREFIX = "<3>"


def is_journal(stream: IO[str]) -> bool:
    """Tell whether a stream is the journal's: systemd names its device and inode in $JOURNAL_STREAM."""
    try:
        status = os.fstat(stream.fileno())
    except (OSError, ValueError):  # a stream without a file, as in tests
        return False
    return os.environ.get(JOURNAL_VARIABLE) == f"{status.st_dev}:{status.st_ino}"
