"""The native kernel below the runtime: how exact its functions are, what it refuses, what happens without it."""

from __future__ import annotations

import logging
import re
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from safetensors.numpy import load_file, save_file

from edge.daemon.config_file import parse_config
from edge.daemon.doctor import check_model
from edge.errors import BundleError, RuntimeUnavailableError, SignalError
from edge.runtime import native_build
from edge.runtime.bundle import Bundle, sha256_of
from edge.runtime.manifest import WEIGHTS_NAME, StateTensor
from edge.runtime.native import NativeRuntime
from edge.runtime.native_build import WIDTH_VARIABLE, native_module, runnable_builds
from edge.runtime.native_shape import ordered_weights, shape_of
from edge.runtime.select import available_runtimes, open_or_fall_back, open_runtime
from edge.runtime.weights import read_weights
from tests.random_models import SMALL, random_bundle

WIDTHS = list(runnable_builds())
LEADS = SMALL.n_leads
RELATIVE = 4e-7
"""Seven roundings of a float at most."""


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return random_bundle(tmp_path_factory.mktemp("bundles") / "bundle")


@pytest.fixture(params=WIDTHS)
def build(request: pytest.FixtureRequest) -> Any:
    return runnable_builds()[request.param]


@pytest.mark.parametrize(
    ("name", "exact"),
    [
        ("exp2", np.exp2),
        ("silu", lambda x: x / (1 + np.exp(-x))),
        ("softplus", lambda x: np.logaddexp(0, x)),
    ],
)
def test_a_function_is_as_exact_as_floats_allow(build: Any, name: str, exact: Any) -> None:
    values = np.concatenate(
        [np.linspace(-60, 60, 400_003), np.geomspace(1e-30, 1, 5000), -np.geomspace(1e-30, 1, 5000)]
    )
    values = values.astype(np.float32)
    results = np.empty_like(values)
    build.apply(name, values, results)
    expected = exact(values.astype(np.float64))
    assert (np.abs(results - expected) <= RELATIVE * np.abs(expected)).all()


@pytest.mark.parametrize("name", ["exp2", "silu", "softplus"])
def test_a_function_of_a_huge_value_is_nothing_or_huge(build: Any, name: str) -> None:
    values = np.array([-1e30, -1e5, -200, 200, 1e5, 1e30], dtype=np.float32)
    results = np.empty_like(values)
    build.apply(name, values, results)
    np.testing.assert_allclose(results[:3], 0, atol=1e-7)
    assert (results[3:] >= 200).all()


def test_one_is_where_an_exponential_of_nothing_is(build: Any) -> None:
    results = np.empty(3, dtype=np.float32)
    build.apply("exp2", np.array([0.0, -0.0, 1e-30], dtype=np.float32), results)
    assert (results == 1).all()


def good_step(build: Any, bundle: Bundle) -> tuple[Any, dict[str, Any]]:
    model = build.Model(shape_of(bundle.manifest).numbers(), weights_of(bundle))
    arguments = {
        "states": np.zeros((2, model.state_floats), dtype=np.float32),
        "slots": [1],
        "frames": np.zeros((1, 8, LEADS), dtype=np.float32),
        "logits": np.zeros((1, 5), dtype=np.float32),
    }
    return model, arguments


def weights_of(bundle: Bundle) -> list[Any]:
    return ordered_weights(shape_of(bundle.manifest), read_weights(bundle))


def test_a_decay_that_is_no_number_is_not_taken_for_a_multiple_of_the_first(build: Any, bundle: Bundle) -> None:
    """It would vanish: of decays that are multiples the kernel looks at the first alone."""
    shape, weights = shape_of(bundle.manifest), read_weights(bundle)
    weights["blocks.0.A_log"][:, 1:] = np.nan
    model = build.Model(shape.numbers(), ordered_weights(shape, weights))
    logits = np.zeros((1, 5), dtype=np.float32)
    frames = np.ones((1, 8, LEADS), dtype=np.float32)
    model.step(np.zeros((1, model.state_floats), dtype=np.float32), [0], frames, logits)
    assert np.isnan(logits).all()


BAD_STEPS: dict[str, tuple[str, Any]] = {
    "a row too short": ("states", lambda a: a[:, :-1].copy()),
    "rows that cannot be written": ("states", lambda a: read_only(a)),
    "rows that are not contiguous": ("states", lambda a: np.zeros((a.shape[0], 2 * a.shape[1]), np.float32)[:, ::2]),
    "states of another type": ("states", lambda a: a.astype(np.float64)),
    "a slot beyond the rows": ("slots", lambda _: [2]),
    "a negative slot": ("slots", lambda _: [-1]),
    "a slot that is no number": ("slots", lambda _: ["a"]),
    "slots that are none": ("slots", lambda _: None),
    "more slots than frames": ("slots", lambda _: [0, 1]),
    "frames of fewer leads": ("frames", lambda a: a[:, :, 1:].copy()),
    "frames that are not whole strides": ("frames", lambda a: a[:, :7].copy()),
    "no samples": ("frames", lambda a: a[:, :0].copy()),
    "flat frames": ("frames", lambda a: a[0]),
    "half frames": ("frames", lambda a: a.astype(np.float16)),
    "room for fewer classes": ("logits", lambda a: a[:, :4].copy()),
    "room for fewer streams": ("logits", lambda a: a[:0].copy()),
    "logits that cannot be written": ("logits", lambda a: read_only(a)),
}


@pytest.mark.parametrize(("argument", "spoil"), BAD_STEPS.values(), ids=BAD_STEPS)
def test_the_kernel_is_not_entered_with_buffers_that_do_not_fit(
    build: Any, bundle: Bundle, argument: str, spoil: Any
) -> None:
    model, arguments = good_step(build, bundle)
    model.step(*arguments.values())
    before = arguments["states"].copy()
    with pytest.raises((ValueError, BufferError, IndexError, TypeError)):
        model.step(*{**arguments, argument: spoil(arguments[argument])}.values())
    np.testing.assert_array_equal(arguments["states"], before)


@given(place=st.integers(0, 38), value=st.integers(-(2**63), 2**63 - 1) | st.integers(-1, 40))
def test_a_shape_and_weights_that_disagree_are_refused(bundle: Bundle, place: int, value: int) -> None:
    _, build = native_module()
    numbers = [int(number) for number in shape_of(bundle.manifest).numbers()]
    window, yes_or_no, unused = 9, range(10, 14), range(18, len(numbers))  # no weight has the window's size
    same = bool(value) == bool(numbers[place]) if place in yes_or_no else value == numbers[place]
    if place == window or place in unused or same:
        return
    numbers[place] = value
    with pytest.raises(ValueError, match=r"weight|dimension|taps|stem"):
        build.Model(numbers, weights_of(bundle))


def test_weights_that_are_too_few_too_many_or_of_another_type_are_refused(build: Any, bundle: Bundle) -> None:
    numbers, weights = shape_of(bundle.manifest).numbers(), weights_of(bundle)
    for wrong in (weights[:-1], [*weights, weights[0]], [*weights[:-1], weights[-1].astype(np.float64)], []):
        with pytest.raises(ValueError, match="weight"):
            build.Model(numbers, wrong)
    for nonsense in ([*weights[:-1], None], tuple(weights)):
        with pytest.raises(TypeError):
            build.Model(numbers, nonsense)
    with pytest.raises(ValueError, match="39 numbers"):
        build.Model(numbers[:-1], weights)


@pytest.mark.parametrize("shape", [(1, 100, LEADS - 1), (2, 100, LEADS), (1, 101, LEADS), (1, 0, LEADS), (100, LEADS)])
def test_frames_that_do_not_fit_are_refused_and_leave_the_state(bundle: Bundle, shape: tuple[int, ...]) -> None:
    runtime = NativeRuntime(bundle)
    slot = runtime.open_slot()
    with pytest.raises(SignalError, match="frames have shape"):
        runtime.step([slot], np.ones(shape, dtype=np.float32))
    for slots in ([slot, slot], [slot + 1]):
        with pytest.raises(SignalError, match="slot"):
            runtime.step(slots, np.zeros((len(slots), 100, LEADS), dtype=np.float32))
    assert not runtime.save_slot(slot)["pool_count"].any()


def test_frames_of_any_layout_and_type_are_taken_as_float32(bundle: Bundle) -> None:
    runtime = NativeRuntime(bundle)
    one, other = runtime.open_slot(), runtime.open_slot()
    frames = np.random.default_rng(0).standard_normal((1, 200, LEADS)).astype(np.float32)
    strided = np.asfortranarray(frames.astype(np.float64).repeat(2, axis=1)[:, ::2])
    np.testing.assert_array_equal(runtime.step([one], frames), runtime.step([other], strided))


def test_a_width_is_chosen_by_argument_or_environment(bundle: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    assert NativeRuntime(bundle).name == f"native-{WIDTHS[0]}"
    monkeypatch.setenv(WIDTH_VARIABLE, WIDTHS[-1])
    assert NativeRuntime(bundle).name == f"native-{WIDTHS[-1]}"
    assert NativeRuntime(bundle, width=WIDTHS[0]).name == f"native-{WIDTHS[0]}"
    with pytest.raises(RuntimeUnavailableError, match="no build for avx1024 here; there are"):
        NativeRuntime(bundle, width="avx1024")


def test_native_is_what_auto_means_and_onnxruntime_what_is_left_without_it(
    bundle: Bundle,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    assert open_runtime(bundle).name == open_runtime(bundle, "native").name == f"native-{WIDTHS[0]}"
    monkeypatch.setattr(native_build, "runnable_builds", dict)
    with pytest.raises(RuntimeUnavailableError, match="not built at installation; install gcc"):
        open_runtime(bundle, "native")
    for open_it, kind in ((open_runtime, "auto"), (open_or_fall_back, "auto"), (open_or_fall_back, "native")):
        assert open_it(bundle, kind).name == "onnxruntime"
        assert said_of_native(caplog).startswith("the C kernel was not built at installation; install gcc")
    checks = {check.name: check for check in check_model(parse_config("", "test.toml", Path("/")))}
    assert checks["runtime native"].outcome == "warn"
    assert "install gcc" in checks["runtime native"].detail
    assert checks["speed"].detail.startswith("onnxruntime takes")


def test_a_width_that_is_none_is_said_by_auto(
    bundle: Bundle, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv(WIDTH_VARIABLE, "avx521")
    assert open_runtime(bundle).name == "onnxruntime"
    assert said_of_native(caplog).startswith("there is no build for avx521 here; there are ")


def test_weights_in_another_type_are_left_to_onnxruntime_which_does_not_read_them(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    bundle = random_bundle(tmp_path / "bundle")
    save_file({k: v.astype(np.float16) for k, v in load_file(bundle.weights_path).items()}, bundle.weights_path)
    hashes = bundle.manifest.files | {WEIGHTS_NAME: sha256_of(bundle.path, WEIGHTS_NAME)}
    halved = changed(bundle, files=hashes)
    assert open_or_fall_back(halved).name == "onnxruntime"
    assert "is F16, and the kernel takes F32" in said_of_native(caplog)
    with pytest.raises(BundleError, match="has changed since the bundle was opened"):
        open_or_fall_back(bundle)


def said_of_native(caplog: pytest.LogCaptureFixture) -> str:
    """Return why native was passed over, in the one line that is logged."""
    (record,) = caplog.records
    caplog.clear()
    assert record.levelno == logging.WARNING
    said = re.fullmatch("runtime 'native' is not available: (.*); onnxruntime runs instead", record.getMessage())
    assert said is not None
    return said[1]


def test_a_build_this_processor_cannot_run_is_never_loaded(monkeypatch: pytest.MonkeyPatch) -> None:
    base = runnable_builds()[native_build.BASE]
    loaded: list[str] = []

    class OldProcessor:
        def cpu_level(self) -> int:
            return 0

    def load(name: str) -> Any:
        loaded.append(name)
        return OldProcessor() if name == base.__name__ else base

    monkeypatch.setattr(native_build, "_imported", load)
    assert list(runnable_builds()) == [native_build.BASE]
    assert set(loaded) == {base.__name__}


def test_a_model_the_kernel_does_not_know_is_left_to_onnxruntime_with_the_reason(bundle: Bundle) -> None:
    manifest = bundle.manifest
    renamed = [StateTensor("stern", manifest.state[0].shape), *manifest.state[1:]]
    unknown: list[tuple[str, dict[str, Any]]] = [
        ("unknown field `attention`", {"model": manifest.model | {"attention": True}}),
        ("missing required field", {"model": {}}),
        ("state is not that of its model", {"state": renamed}),
        ("other leads, classes or stride", {"stride": 2}),
        ("computes recurrent ones", {"kind": "windowed"}),
        ("differ in", {"model": manifest.model | {"final_norm": False}}),
    ]
    for reason, changes in unknown:
        with pytest.raises(RuntimeUnavailableError, match=reason):
            NativeRuntime(changed(bundle, **changes))
    other = changed(bundle, model=manifest.model | {"attention": True})
    assert open_runtime(other).name == "onnxruntime"
    (name, problem), *_ = available_runtimes(other)
    assert name == "native"
    assert problem is not None
    assert "attention" in problem


def test_weights_that_changed_or_cannot_be_read_are_an_error_of_the_bundle(tmp_path: Path) -> None:
    bundle = random_bundle(tmp_path / "bundle")
    good = bundle.weights_path.read_bytes()
    bundle.weights_path.write_bytes(good[:-1] + bytes([good[-1] ^ 1]))
    with pytest.raises(BundleError, match="has changed since the bundle was opened"):
        NativeRuntime(bundle)
    bundle.weights_path.write_bytes(good[:100])
    hashes = bundle.manifest.files | {WEIGHTS_NAME: sha256_of(bundle.path, WEIGHTS_NAME)}
    with pytest.raises(BundleError, match=r"model\.safetensors cannot be read: its header is said to have"):
        NativeRuntime(changed(bundle, files=hashes))
    bundle.weights_path.unlink()
    with pytest.raises(BundleError, match=r"model\.safetensors is missing"):
        NativeRuntime(bundle)


def test_weights_that_are_not_finite_are_an_error_of_the_bundle(tmp_path: Path) -> None:
    bundle = random_bundle(tmp_path / "bundle")
    weights = load_file(bundle.weights_path)
    weights["head.bias"] = np.full_like(weights["head.bias"], np.nan)
    save_file(weights, bundle.weights_path)
    hashes = bundle.manifest.files | {WEIGHTS_NAME: sha256_of(bundle.path, WEIGHTS_NAME)}
    with pytest.raises(BundleError, match=r"head\.bias has a value that is not finite"):
        NativeRuntime(changed(bundle, files=hashes))


def test_weights_nested_without_end_are_an_error_of_the_bundle(tmp_path: Path) -> None:
    bundle = random_bundle(tmp_path / "bundle")
    header = b'{"w":' + b"[" * 200_000 + b"]" * 200_000 + b"}"
    bundle.weights_path.write_bytes(len(header).to_bytes(8, "little") + header)
    hashes = bundle.manifest.files | {WEIGHTS_NAME: sha256_of(bundle.path, WEIGHTS_NAME)}
    with pytest.raises(BundleError, match=r"model\.safetensors cannot be read"):
        NativeRuntime(changed(bundle, files=hashes))


def read_only(array: Any) -> Any:
    copied = array.copy()
    copied.flags.writeable = False
    return copied


def changed(bundle: Bundle, **changes: object) -> Bundle:
    return Bundle(bundle.path, msgspec.structs.replace(bundle.manifest, **changes))
