"""Reading a bundle's files: nothing in its folder makes a reader wait, fills memory or ends in more than a line."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from edge.errors import BundleError
from edge.runtime.bundle import Bundle, load_bundle, read_file, read_manifest, sha256_of
from edge.runtime.manifest import MANIFEST_NAME, ONNX_NAME
from edge.runtime.native import NativeRuntime
from edge.runtime.onnx import OnnxRuntime
from tests.tiny_bundle import tiny_bundle


@pytest.fixture
def bundle(tmp_path: Path) -> Bundle:
    return tiny_bundle(tmp_path / "bundle")


def a_pipe(path: Path) -> None:
    os.mkfifo(path)


def a_device(path: Path) -> None:
    path.symlink_to(os.devnull)


def a_folder(path: Path) -> None:
    path.mkdir()


def a_link_in_a_circle(path: Path) -> None:
    path.symlink_to(path)


def nothing(path: Path) -> None:
    assert not path.exists()


def what_has_no_size(path: Path) -> None:
    path.symlink_to("/proc/self/status")


STRANGE: list[tuple[Callable[[Path], None], str]] = [
    (a_pipe, "is no regular file"),
    (a_device, "is no regular file"),
    (a_folder, "cannot be read: Is a directory"),
    (a_link_in_a_circle, "cannot be read: Too many levels of symbolic links"),
    (nothing, "is missing"),
    (what_has_no_size, "was written while it was read"),
]


@pytest.mark.timeout(30)
@pytest.mark.parametrize("name", [MANIFEST_NAME, ONNX_NAME, "model_fp16.onnx", "model.safetensors"])
@pytest.mark.parametrize(("make", "said"), STRANGE, ids=[make.__name__ for make, _ in STRANGE])
def test_what_is_no_file_is_refused_in_one_line(
    bundle: Bundle, name: str, make: Callable[[Path], None], said: str
) -> None:
    (bundle.path / name).unlink()
    make(bundle.path / name)
    with pytest.raises(BundleError) as caught:
        load_bundle(bundle.path)
    assert caught.value.problem == f"{name} {said}"


@pytest.mark.timeout(30)
@pytest.mark.parametrize(("make", "said"), STRANGE, ids=[make.__name__ for make, _ in STRANGE])
def test_so_it_is_where_the_file_was_one_when_the_bundle_was_opened(
    bundle: Bundle, make: Callable[[Path], None], said: str
) -> None:
    for path, runtime in ((bundle.onnx_path, OnnxRuntime), (bundle.weights_path, NativeRuntime)):
        path.unlink()
        make(path)
        with pytest.raises(BundleError) as caught:
            runtime(bundle)
        assert caught.value.problem == f"{path.name} {said}"


def test_a_link_to_a_file_is_as_good_as_the_file(bundle: Bundle, tmp_path: Path) -> None:
    """As the cache of Hugging Face has them."""
    for name in bundle.manifest.files:
        (bundle.path / name).rename(tmp_path / name)
        (bundle.path / name).symlink_to(tmp_path / name)
    assert OnnxRuntime(load_bundle(bundle.path)).bundle.manifest == bundle.manifest


def test_no_more_is_read_than_the_limit(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(bytes(100))
    assert read_file(tmp_path, "file", 100) == bytes(100)
    with pytest.raises(BundleError, match="file has 100 bytes, more than the limit of 99"):
        read_file(tmp_path, "file", 99)


@pytest.mark.parametrize("name", ["a\0b", "\ud800"])
def test_a_name_that_no_file_can_have_is_refused_in_one_line(tmp_path: Path, name: str) -> None:
    with pytest.raises(BundleError, match="cannot be read: "):
        sha256_of(tmp_path, name)


UNSAFE = ["a\0b", "../model.onnx", "/etc/passwd", ".hidden", "", "a" * 65, "line\n", "\ud800"]


@pytest.mark.parametrize("name", UNSAFE, ids=ascii)
def test_a_manifest_does_not_list_files_under_unsafe_names(bundle: Bundle, name: str) -> None:
    def list_it(table: dict[str, Any]) -> None:
        table["files"][name] = "0" * 64

    with pytest.raises(BundleError, match=r"files has an unsafe name|cannot be read"):
        read_manifest(with_manifest(bundle, list_it).path)


@pytest.mark.parametrize("opening", ["[", '{"a":'])
def test_a_manifest_nested_without_end_is_refused_in_one_line(bundle: Bundle, opening: str) -> None:
    nested = opening * 100_000 + "0" + {"[": "]", '{"a":': "}"}[opening] * 100_000
    raw = (bundle.path / MANIFEST_NAME).read_text()
    (bundle.path / MANIFEST_NAME).write_text(raw.replace('"metrics": {}', f'"metrics": {{"a": {nested}}}'))
    assert nested in (bundle.path / MANIFEST_NAME).read_text()
    with pytest.raises(BundleError, match=r"manifest\.json cannot be read"):
        read_manifest(bundle.path)


def with_manifest(bundle: Bundle, change: Callable[[dict[str, Any]], None]) -> Bundle:
    """Change what stands in a bundle's manifest, whatever its types say."""
    path = bundle.path / MANIFEST_NAME
    table = json.loads(path.read_text())
    change(table)
    path.write_text(json.dumps(table))
    return bundle
