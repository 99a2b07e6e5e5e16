"""Loading a model bundle from a directory, with every file's hash checked before it is used."""

from __future__ import annotations

import hashlib
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
        """The weights by parameter name."""
        return self.path / WEIGHTS_NAME


def shipped_bundle_path() -> Path:
    """Return the directory of the bundle that ships inside the package."""
    return Path(str(resources.files("edge") / "bundles" / SHIPPED_BUNDLE))


def load_bundle(path: Path | None = None) -> Bundle:
    """Read and check a bundle; without a path the shipped one.

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
    raw = _read_limited(path, MANIFEST_NAME, MANIFEST_LIMIT_BYTES)
    try:
        manifest = msgspec.json.decode(raw, type=Manifest)
    except msgspec.MsgspecError as error:
        raise BundleError(path, f"{MANIFEST_NAME} cannot be read: {error}") from None
    problems = manifest.problems()
    if problems:
        raise BundleError(path, f"{MANIFEST_NAME}: " + "; ".join(problems))
    return manifest


def write_manifest(path: Path, manifest: Manifest) -> None:
    """Write `manifest.json`, readable, keys in a stable order; the old one stands until the new one is whole."""
    encoded = msgspec.json.format(msgspec.json.encode(manifest), indent=2)
    partial = path / f".{MANIFEST_NAME}.partial"
    partial.write_bytes(encoded + b"\n")
    partial.replace(path / MANIFEST_NAME)


def sha256_of(path: Path, name: str) -> str:
    """Return the SHA-256 of one file of a bundle."""
    return hashlib.sha256(_read_limited(path, name, FILE_LIMIT_BYTES)).hexdigest()


def _read_limited(path: Path, name: str, limit_bytes: int) -> bytes:
    file = path / name
    try:
        size = file.stat().st_size
        if size > limit_bytes:
            raise BundleError(path, f"{name} has {size} bytes, more than the limit of {limit_bytes}")
        return file.read_bytes()
    except FileNotFoundError:
        raise BundleError(path, f"{name} is missing") from None
    except OSError as error:
        raise BundleError(path, f"{name} cannot be read: {error.strerror}") from None
