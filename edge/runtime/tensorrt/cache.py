"""Engines on disk: one file per key with its hash beside it, written whole or not at all."""

from __future__ import annotations

import hashlib
import os
import stat
import tempfile
from pathlib import Path

import msgspec

from edge.errors import EcgEdgeError, StorageError
from edge.runtime.tensorrt.key import EngineKey

FOLDER_VARIABLE = "ECG_EDGE_ENGINE_CACHE"
ENGINE_SUFFIX = ".engine"
NOTE_SUFFIX = ".json"

ROOT = 0
"""The user who may write anywhere as it is."""


class EngineFileError(EcgEdgeError):
    """An engine file that must not be loaded."""

    def __init__(self, path: Path, problem: str) -> None:
        self.path = path
        self.problem = problem
        super().__init__(f"engine {path.name}: {problem}")


class _Note(msgspec.Struct, frozen=True):
    """What stands beside an engine."""

    key: EngineKey
    sha256: str


def engine_cache_folder() -> Path:
    """Return where engines are kept: $ECG_EDGE_ENGINE_CACHE, a folder systemd gives, or the user's cache."""
    if named := os.environ.get(FOLDER_VARIABLE):
        return Path(named)
    for variable in ("CACHE_DIRECTORY", "STATE_DIRECTORY"):  # systemd.exec(5): a list, separated by colons
        if given := os.environ.get(variable):
            return Path(given.split(":")[0]) / "engines"
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "ecg-edge" / "engines"


class EngineCache:
    """A folder of engines. Who may write into it decides what runs on the GPU: it is made for its owner alone.

    The hash beside an engine tells damage, not malice. So every method raises StorageError for a folder that is there
    and that others may write into. Root takes any owner's: an administrator's `doctor` looks at the service's engines.
    """

    def __init__(self, folder: Path | None = None) -> None:
        self.folder = engine_cache_folder() if folder is None else folder

    def path(self, key: EngineKey) -> Path:
        """The file of a key's engine, whether it is there or not."""
        return self.folder / f"{key.stem}{ENGINE_SUFFIX}"

    def load(self, key: EngineKey) -> bytes | None:
        """Return a key's engine, None when there is none; raises EngineFileError for one that is damaged."""
        self._require_own()
        path = self.path(key)
        try:
            engine = path.read_bytes()
        except FileNotFoundError:
            return None
        except OSError as error:
            raise EngineFileError(path, f"cannot be read: {error.strerror}") from None
        note = _read_note(path.with_suffix(NOTE_SUFFIX))
        if note is None or note.key != key:
            raise EngineFileError(path, "the note beside it is missing or says something else")
        if hashlib.sha256(engine).hexdigest() != note.sha256:
            raise EngineFileError(path, "is damaged: its SHA-256 is not the one noted beside it")
        return engine

    def store(self, key: EngineKey, engine: bytes) -> Path:
        """Keep an engine under its key; raises StorageError when the folder cannot be written."""
        path = self.path(key)
        note = msgspec.json.encode(_Note(key, hashlib.sha256(engine).hexdigest()))
        self._write(path, engine)
        self._write(path.with_suffix(NOTE_SUFFIX), note)
        return path

    def kept(self) -> list[EngineKey]:
        """Return what the folder holds engines for."""
        self._require_own()
        notes = (_read_note(path.with_suffix(NOTE_SUFFIX)) for path in sorted(self.folder.glob(f"*{ENGINE_SUFFIX}")))
        return [note.key for note in notes if note is not None]

    def load_timings(self, key: EngineKey) -> bytes:
        """Return what earlier builds for the same device and TensorRT have measured; empty where nothing is kept."""
        self._require_own()
        try:
            return self._timings(key).read_bytes()
        except OSError:
            return b""

    def store_timings(self, key: EngineKey, timings: bytes) -> None:
        """Keep a build's measurements for the next one."""
        self._write(self._timings(key), timings)

    def _require_own(self) -> None:
        try:
            status = self.folder.stat()
        except OSError:
            return  # where it cannot be looked into, nothing is read from it
        own_user = os.geteuid()
        if status.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
            problem = f"may be written by others (mode {stat.S_IMODE(status.st_mode):o}); chmod go-w it"
        elif own_user != ROOT and status.st_uid not in (ROOT, own_user):
            problem = f"belongs to user {status.st_uid}, and this is user {own_user}; name one of your own"
        else:
            return
        raise StorageError(f"engine cache {self.folder} {problem}")

    def _timings(self, key: EngineKey) -> Path:
        return self.folder / f"sm{key.sm}-trt{key.tensorrt}.timings"

    def _write(self, path: Path, content: bytes) -> None:
        """Write beside, then rename: a reader sees the old file or the new one, also after a power cut."""
        try:
            self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            self._require_own()
            with tempfile.NamedTemporaryFile(dir=self.folder, prefix=f".{path.name}.", delete=False) as partial:
                try:
                    partial.write(content)
                    partial.flush()
                    os.fsync(partial.fileno())
                    Path(partial.name).replace(path)
                except OSError:
                    Path(partial.name).unlink(missing_ok=True)
                    raise
        except OSError as error:
            raise StorageError(f"engine cache {self.folder} cannot be written: {error.strerror or error}") from None


def _read_note(path: Path) -> _Note | None:
    try:
        return msgspec.json.decode(path.read_bytes(), type=_Note)
    except (OSError, RecursionError, msgspec.MsgspecError):
        return None
