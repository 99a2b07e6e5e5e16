"""Arrays that take minutes to compute, kept beside the data cache under the hash of everything they depend on."""

from __future__ import annotations

import hashlib
import json
import os
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from trainer.ptbxl import default_cache_dir

Arrays = dict[str, NDArray[Any]]


def cached_arrays(name: str, facts: object, compute: Callable[[], Arrays], folder: Path | None = None) -> Arrays:
    """Return what `compute` returned when it was called with these facts last, or call it.

    `facts` is anything JSON can write. A file that cannot be read is written anew; nothing in it is ever unpickled.
    """
    digest = hashlib.sha256(json.dumps(facts).encode()).hexdigest()[:16]
    path = (folder or default_cache_dir()) / f"{name}-{digest}.npz"
    try:
        with np.load(path, allow_pickle=False) as stored:
            return {key: stored[key] for key in stored.files}
    except (OSError, ValueError, EOFError, zipfile.BadZipFile):
        computed = compute()
    _write(path, computed)
    return computed


def _write(path: Path, arrays: Arrays) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f"{path.name}.{os.getpid()}.partial")
    try:
        with partial.open("wb") as file:
            np.savez_compressed(file, allow_pickle=False, **arrays)
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)
