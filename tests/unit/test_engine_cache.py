"""Engines on disk: found again under the same key and no other, never half written, refused when they are damaged."""

from __future__ import annotations

import os
import stat
from collections.abc import Callable
from dataclasses import fields, replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge.errors import StorageError
from edge.runtime.tensorrt.cache import FOLDER_VARIABLE, ROOT, EngineCache, EngineFileError, engine_cache_folder
from edge.runtime.tensorrt.key import EngineKey, batch_profiles, engine_key
from edge.runtime.tensorrt.targets import TARGETS, Device, default_precision
from tests.tiny_bundle import tiny_manifest

KEY = EngineKey("0" * 64, "10.3.0", "8.7", "fp32", "1x4-100-1000")


@pytest.fixture
def cache(tmp_path: Path) -> EngineCache:
    return EngineCache(tmp_path / "engines")


@given(engine=st.binary(max_size=64))
def test_what_was_stored_is_found(tmp_path_factory: pytest.TempPathFactory, engine: bytes) -> None:
    cache = EngineCache(tmp_path_factory.mktemp("engines"))
    cache.store(KEY, engine)
    assert cache.load(KEY) == engine
    assert cache.kept() == [KEY]


@pytest.mark.parametrize("field", [field.name for field in fields(EngineKey)])
def test_a_key_that_differs_in_any_field_is_another_engine(cache: EngineCache, field: str) -> None:
    cache.store(KEY, b"engine")
    other = replace(KEY, **{field: "other"})
    assert cache.load(other) is None
    cache.store(other, b"other engine")
    assert cache.load(KEY) == b"engine"


@given(position=st.integers(0, 63), bit=st.integers(0, 7))
def test_any_flipped_bit_is_noticed(tmp_path_factory: pytest.TempPathFactory, position: int, bit: int) -> None:
    cache = EngineCache(tmp_path_factory.mktemp("engines"))
    path = cache.store(KEY, bytes(64))
    path.write_bytes(bytes(1 << bit if index == position else 0 for index in range(64)))
    with pytest.raises(EngineFileError, match="damaged"):
        cache.load(KEY)


@pytest.mark.parametrize("note", [None, b"{", b'{"key": {}, "sha256": ""}'])
def test_an_engine_without_a_note_that_says_so_is_not_used(cache: EngineCache, note: bytes | None) -> None:
    beside = cache.store(KEY, b"engine").with_suffix(".json")
    beside.unlink() if note is None else beside.write_bytes(note)
    with pytest.raises(EngineFileError, match="note"):
        cache.load(KEY)
    assert cache.kept() == []


def test_an_engine_renamed_to_another_key_is_not_used(cache: EngineCache) -> None:
    other = replace(KEY, sm="7.5")
    path = cache.store(KEY, b"engine")
    path.rename(cache.path(other))
    path.with_suffix(".json").rename(cache.path(other).with_suffix(".json"))
    with pytest.raises(EngineFileError, match="note"):
        cache.load(other)


def test_a_write_that_fails_leaves_the_old_engine_and_no_fragments(
    cache: EngineCache, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache.store(KEY, b"old")
    files = sorted(path.name for path in cache.folder.iterdir())

    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(StorageError, match="No space left"):
        cache.store(KEY, b"new")
    assert cache.load(KEY) == b"old"
    assert sorted(path.name for path in cache.folder.iterdir()) == files


def test_the_folder_is_its_owner_s_alone(cache: EngineCache) -> None:
    cache.store(KEY, b"engine")
    assert stat.S_IMODE(cache.folder.stat().st_mode) == 0o700


Use = Callable[[EngineCache], object]
USES: dict[str, Use] = {
    "load": lambda cache: cache.load(KEY),
    "store": lambda cache: cache.store(KEY, b"engine"),
    "kept": lambda cache: cache.kept(),
    "load_timings": lambda cache: cache.load_timings(KEY),
    "store_timings": lambda cache: cache.store_timings(KEY, b"timings"),
}


@pytest.mark.parametrize("use", USES.values(), ids=USES)
@pytest.mark.parametrize("mode", [0o770, 0o702, 0o1777])
def test_a_folder_that_others_may_write_into_is_not_used(cache: EngineCache, use: Use, mode: int) -> None:
    cache.store(KEY, b"engine")
    cache.folder.chmod(mode)
    with pytest.raises(StorageError, match=rf"engines may be written by others \(mode {mode:o}\); chmod go-w it$"):
        use(cache)
    cache.folder.chmod(0o755)
    use(cache)


@pytest.mark.parametrize("use", USES.values(), ids=USES)
def test_a_folder_of_another_user_is_not_used(cache: EngineCache, use: Use, monkeypatch: pytest.MonkeyPatch) -> None:
    cache.store(KEY, b"engine")
    owner = cache.folder.stat().st_uid
    if owner == ROOT:
        os.chown(cache.folder, owner := 4711, -1)
    monkeypatch.setattr(os, "geteuid", lambda: 4712)
    with pytest.raises(StorageError, match=rf"belongs to user {owner}, and this is user 4712; name one of your own$"):
        use(cache)
    monkeypatch.setattr(os, "geteuid", lambda: owner)
    use(cache)


def test_a_folder_of_root_is_used_by_others_and_root_looks_into_that_of_a_service(
    cache: EngineCache, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache.store(KEY, b"engine")
    if cache.folder.stat().st_uid == ROOT:
        monkeypatch.setattr(os, "geteuid", lambda: 4712)
        assert cache.load(KEY) == b"engine"
        os.chown(cache.folder, 4711, -1)
    monkeypatch.setattr(os, "geteuid", lambda: ROOT)
    assert cache.load(KEY) == b"engine"


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({FOLDER_VARIABLE: "/e", "CACHE_DIRECTORY": "/c"}, "/e"),
        ({"CACHE_DIRECTORY": "/c:/d", "STATE_DIRECTORY": "/s"}, "/c/engines"),
        ({"STATE_DIRECTORY": "/s"}, "/s/engines"),
        ({"XDG_CACHE_HOME": "/x"}, "/x/ecg-edge/engines"),
        ({}, "/home/me/.cache/ecg-edge/engines"),
    ],
)
def test_the_folder_is_the_first_that_is_named(
    monkeypatch: pytest.MonkeyPatch, given: dict[str, str], expected: str
) -> None:
    for variable in (FOLDER_VARIABLE, "CACHE_DIRECTORY", "STATE_DIRECTORY", "XDG_CACHE_HOME"):
        monkeypatch.delenv(variable, raising=False)
    monkeypatch.setenv("HOME", "/home/me")
    for variable, value in given.items():
        monkeypatch.setenv(variable, value)
    assert engine_cache_folder() == Path(expected)


def test_a_key_follows_graph_device_version_precision_and_shapes() -> None:
    manifest = tiny_manifest(files={"model.onnx": "a" * 64, "model_fp16.onnx": "b" * 64, "model.safetensors": "c" * 64})
    t4, orin = Device("Tesla T4", (7, 5)), Device("Orin", (8, 7))
    keys = {
        engine_key(manifest, precision, version, device)
        for precision in ("fp32", "fp16")
        for version in ("10.3.0", "11.4.0")
        for device in (t4, orin)
    }
    assert len({key.stem for key in keys}) == 8
    assert {key.graph_sha256[0] for key in keys} == {"a", "b"}
    assert [str(profile) for profile in batch_profiles(manifest)] == ["1x4-100-1000", "16x4-100-1000", "256x4-100-100"]


@pytest.mark.parametrize(("target", "precision"), [("t4", "fp16"), ("orin", "fp32"), ("thor", "fp32")])
def test_a_t4_computes_projections_in_float16_and_newer_targets_in_float32(target: str, precision: str) -> None:
    assert {default_precision(Device(target, sm)) for sm in TARGETS[target]} == {precision}
