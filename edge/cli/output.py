"""What every command shares: one JSON object on standard output, everything else on standard error, one-line errors."""

from __future__ import annotations

import argparse
import errno
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import PurePath

import msgspec
import numpy as np

from edge.errors import EcgEdgeError
from edge.journal import ERROR_PREFIX, is_journal

EXIT_OK = 0
EXIT_FAILED = 1
EXIT_USAGE = 2
EXIT_INTERRUPTED = 130
OF_THE_OUTPUT = frozenset(
    {errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOSPC, errno.EDQUOT, errno.ENOENT, errno.ENOTDIR}
)
"""What a user can mend who chose where to write."""


def emit_json(result: object) -> None:
    """Write a result as one JSON object and a newline to standard output; see `as_json`."""
    sys.stdout.write(as_json(result))
    sys.stdout.flush()


def as_json(result: object) -> str:
    """Return a result as one JSON object and a newline.

    Takes dicts, lists, numbers, strings, dataclasses, msgspec structs, paths and NumPy values; a float that is not
    finite becomes null, since JSON has no word for it.
    """
    return msgspec.json.encode(result, enc_hook=_encode_other).decode() + "\n"


def say(message: str) -> None:
    """Write a line of progress to standard error, so that standard output stays a result."""
    print(message, file=sys.stderr, flush=True)


def fail(prog: str, message: str) -> int:
    """Print an error in one line to standard error, as one where that is the journal; return the exit status for it."""
    priority = ERROR_PREFIX if is_journal(sys.stderr) else ""
    say(f"{priority}{prog}: error: {' '.join(message.split())}")
    return EXIT_USAGE


def run_command(prog: str, build: Callable[[], argparse.ArgumentParser], argv: Sequence[str] | None) -> int:
    """Parse the arguments, call `args.run(args)` and return the exit status.

    Expected errors (EcgEdgeError) and files that cannot be written print one line and exit 2, Ctrl-C exits 130, a
    reader that went away ends quietly; anything else is a fault of ours and keeps its traceback.
    """
    try:
        args = build().parse_args(argv)
        status: int = args.run(args)
        sys.stdout.flush()
    except SystemExit as stop:  # argparse has printed its help or its error
        if isinstance(stop.code, str):
            return fail(prog, stop.code)
        return stop.code or EXIT_OK
    except EcgEdgeError as error:
        return fail(prog, str(error))
    except KeyboardInterrupt:
        return EXIT_INTERRUPTED
    except BrokenPipeError:
        _discard_output()
        return EXIT_FAILED
    except OSError as error:
        if error.errno not in OF_THE_OUTPUT:
            raise
        if error.filename is None:  # no file was named: it is standard output that takes nothing
            _discard_output()
        return fail(prog, f"{error.filename or 'what was to be written'}: {error.strerror}")
    return status


def _encode_other(value: object) -> object:
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, np.ndarray):
        return value.tolist()
    if isinstance(value, PurePath):
        return str(value)
    raise TypeError(f"{type(value).__name__} has no JSON form")


def _discard_output() -> None:
    """Point standard output at nothing, so that the interpreter's last flush does not fail again."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
