"""Loading a model bundle from a directory, with every file's hash checked before it is used."""

from __future__ import annotations

import hashlib
import os
import stat
from dataclasses import dataclass
from importlib import resources
from pathlib import Path

import msgspec

from edge.errors import BundleError
from edge.runtime.manifest import MANIFEST_NAME, ONNX_NAME, WEIGHTS_NAME, Manifest

SHIPPED_BUNDLE = "ecg-mamba"
MANIFEST_LIMIT_BYTES = 4 * 1024 * 1024
FILE_LIMIT_BYTES = 1024 * 1024 * 1024


@dataclass(frozen=True)
class Bundle:
    """A bundle whose manifest has been read and whose files have the hashes it states."""

    path: Path
    manifest: Manifest

    @property
    def onnx_path(self) -> Path:
        """The graph."""
        return self.path / ONNX_NAME

    @property
    def weights_path(self) -> Path:
        """The weights by parameter name; a windowed bundle may do without them."""
        return self.path / WEIGHTS_NAME

    def read(self, name: str) -> bytes:
        """Return the content of a file that the manifest lists.

        Raises BundleError when it cannot be read or is not what it was when the bundle was opened.
        """
        content = read_file(self.path, name, FILE_LIMIT_BYTES)
        if hashlib.sha256(content).hexdigest() != self.manifest.files[name]:
            raise BundleError(self.path, f"{name} has changed since the bundle was opened; refused")
        return content


def shipped_bundle_path() -> Path:
    """Return the directory of the bundle that ships inside the package."""
    return Path(str(resources.files("edge") / "bundles" / SHIPPED_BUNDLE))


def load_bundle(path: Path | None = None) -> Bundle:
    """Read and check a bundle; without a path the shipped one.

    What is checked is that the files are those the manifest means. Whether graph and weights are one model is for
    `ecg-export verify` to say, and who wrote the manifest, calibration and thresholds included, nothing here can tell.
    Raises BundleError when a file is missing, too large, malformed or differs from its stated hash.
    """
    path = shipped_bundle_path() if path is None else path
    manifest = read_manifest(path)
    for name, expected in manifest.files.items():
        actual = sha256_of(path, name)
        if actual != expected:
            raise BundleError(path, f"{name} has SHA-256 {actual[:12]}…, the manifest says {expected[:12]}…; refused")
    return Bundle(path, manifest)


def read_manifest(path: Path) -> Manifest:
    """Read and check `manifest.json` of a bundle directory, without looking at the other files."""
    raw = read_file(path, MANIFEST_NAME, MANIFEST_LIMIT_BYTES)
    try:
        manifest = msgspec.json.decode(raw, type=Manifest)
    except (msgspec.MsgspecError, ValueError, RecursionError) as error:
        raise BundleError(path, f"{MANIFEST_NAME} cannot be read: {error}") from None
    problems = manifest.problems()
    if problems:
        raise BundleError(path, f"{MANIFEST_NAME}: " + "; ".join(problems))
    return manifest


def write_manifest(path: Path, manifest: Manifest) -> None:
    """Write `manifest.json`, readable, keys in a stable order; the old one stands until the new one is whole."""
    write_file(path, MANIFEST_NAME, msgspec.json.format(msgspec.json.encode(manifest), indent=2) + b"\n")


def write_file(path: Path, name: str, content: bytes) -> None:
    """Write one file of a bundle: whoever reads it meanwhile sees the old one or the new one; raises OSError."""
    partial = path / f".{name}.partial"
    try:
        partial.write_bytes(content)
        partial.replace(path / name)
    except OSError:
        partial.unlink(missing_ok=True)
        raise


def sha256_of(path: Path, name: str) -> str:
    """Return the SHA-256 of one file of a bundle."""
    return hashlib.sha256(read_file(path, name, FILE_LIMIT_BYTES)).hexdigest()


def read_file(path: Path, name: str, limit_bytes: int) -> bytes:
    """Return the content of one file of a bundle directory, whatever its hash.

    A link may point to a file elsewhere, but what it opens must be one: a pipe would keep the reader waiting, and a
    device has no end. Raises BundleError.
    """
    try:
        with open(path / name, "rb", opener=_open_at_once) as opened:
            status = os.fstat(opened.fileno())
            if not stat.S_ISREG(status.st_mode):
                raise BundleError(path, f"{name} is no regular file")
            if status.st_size > limit_bytes:
                raise BundleError(path, f"{name} has {status.st_size} bytes, more than the limit of {limit_bytes}")
            content = opened.read(status.st_size + 1)
    except FileNotFoundError:
        raise BundleError(path, f"{name} is missing" if path.is_dir() else "there is no such folder") from None
    except OSError as error:
        raise BundleError(path, f"{name} cannot be read: {error.strerror}") from None
    except ValueError as error:  # a name that no file can have
        raise BundleError(path, f"{name!r} cannot be read: {error}") from None
    if len(content) != status.st_size:
        raise BundleError(path, f"{name} was written while it was read")
    return content


def _open_at_once(file: str, flags: int) -> int:
    """Open a file without waiting for whoever would write into a pipe."""
    return os.open(file, flags | getattr(os, "O_NONBLOCK", 0))
