"""The manifest: what cannot be right is refused when it is read, and its hashes cover what they say."""

from __future__ import annotations

from pathlib import Path

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.signal import tf2zpk

from edge.errors import BundleError
from edge.runtime.bundle import load_bundle, read_manifest, shipped_bundle_path, write_manifest
from edge.runtime.manifest import Manifest, OperatingPoint, SignalSpec, StateTensor
from edge.signal.lead_quality import MIN_HOP_SAMPLES
from export.precision import add_float16_graph
from tests.tiny_bundle import tiny_bundle, tiny_manifest

SHIPPED = read_manifest(shipped_bundle_path())

Section = tuple[float, float, float, float, float, float]


def with_section(*section: float) -> SignalSpec:
    return msgspec.structs.replace(SHIPPED.signal, sos=[*SHIPPED.signal.sos, section])


UNSTABLE = {
    "not normalised": (1.0, 0.0, 0.0, 2.0, 0.0, 0.0),
    "a pole on the circle": (1.0, 0.0, 0.0, 1.0, -1.0, 0.0),
    "a pole on the other side": (1.0, 0.0, 0.0, 1.0, 1.0, 0.0),
    "an integrator": (1.0, 0.0, 0.0, 1.0, -1.5, 0.5),
    "poles beyond it": (1.0, 0.0, 0.0, 1.0, 0.0, 5.0),
    "a pair on it": (1.0, 0.0, 0.0, 1.0, 0.0, 1.0),
    "no number": (1.0, 0.0, 0.0, 1.0, float("nan"), 0.0),
}


@pytest.mark.parametrize("section", UNSTABLE.values(), ids=UNSTABLE)
def test_a_filter_that_would_never_settle_is_refused(section: Section) -> None:
    problems = tiny_manifest(signal=with_section(*section)).problems()
    assert "a section of signal.sos is not normalised to a0 = 1 or is not stable" in problems


@given(a1=st.floats(-2.5, 2.5), a2=st.floats(-1.5, 1.5))
def test_a_section_settles_where_its_poles_lie_within_the_unit_circle(a1: float, a2: float) -> None:
    _, poles, _ = tf2zpk([1.0, 0.0, 0.0], [1.0, a1, a2])
    radius = np.abs(poles).max()
    if abs(radius - 1.0) > 1e-6:
        assert with_section(1.0, 0.0, 0.0, 1.0, a1, a2).settles == (radius < 1.0)


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"window_s": 0.001}, "window_s must be whole hops, one at least"),
        ({"window_s": 0.5}, "window_s must be whole hops, one at least"),
        ({"window_s": 1.5}, "window_s must be whole hops, one at least"),
        ({"hop_s": 0.04}, f"hop_s must be {MIN_HOP_SAMPLES} samples or more: fewer tell nothing of a lead's quality"),
        ({"hop_s": 0.001}, f"hop_s must be {MIN_HOP_SAMPLES} samples or more: fewer tell nothing of a lead's quality"),
        ({"hop_s": 0.09}, "hop_s must be a multiple of the stride"),
        ({"state": [StateTensor("a", [1]), StateTensor("a", [2])]}, "state names a tensor twice"),
        ({"files": {"model.onnx": "0" * 64}}, "files of a recurrent bundle must list model.safetensors"),
        ({"files": {"model.safetensors": "0" * 64}}, "files must list model.onnx"),
        ({"leads": ["X", *SHIPPED.leads[1:]]}, "leads has a name that is not a standard lead"),
        ({"leads": [SHIPPED.leads[1], *SHIPPED.leads[1:]]}, "leads or classes name one twice"),
        ({"signal": msgspec.structs.replace(SHIPPED.signal, std_mv=[1.0])}, "signal.mean_mv and std_mv go by lead"),
        ({"signal": msgspec.structs.replace(SHIPPED.signal, std_mv=[0.0] * 12)}, "signal.std_mv must be positive"),
        ({"signal": msgspec.structs.replace(SHIPPED.signal, sos=[])}, "signal.sos is empty"),
        ({"signal": msgspec.structs.replace(SHIPPED.signal, mean_mv=[float("nan")] * 12)}, "a number is not finite"),
        ({"calibration": msgspec.structs.replace(SHIPPED.calibration, bias=[0.0])}, "calibration needs one per class"),
        (
            {"calibration": msgspec.structs.replace(SHIPPED.calibration, scale=[float("inf")] * 5)},
            "a number is not finite",
        ),
        ({"operating_points": {}}, "operating_points must name exactly the classes"),
        (
            {"operating_points": SHIPPED.operating_points | {"MI": OperatingPoint(0.5, 0.5, 0.9, 1.0)}},
            "an operating point has off above on",
        ),
    ],
)
def test_what_cannot_be_right_is_named(changes: dict[str, object], problem: str) -> None:
    assert problem in tiny_manifest(**changes).problems()


def test_a_hop_as_short_as_quality_can_be_judged_by_is_taken() -> None:
    hop_s = MIN_HOP_SAMPLES / SHIPPED.signal.rate_hz
    assert tiny_manifest(hop_s=hop_s, window_s=10 * hop_s).problems() == []


@pytest.mark.parametrize("name", ["NORM\n", "NO RM", "", "A" * 65])
def test_a_class_is_named_so_that_a_topic_takes_it(tmp_path: Path, name: str) -> None:
    classes = [name, *SHIPPED.classes[1:]]
    points = dict(zip(classes, SHIPPED.operating_points.values(), strict=True))
    write_manifest(tmp_path, msgspec.structs.replace(SHIPPED, classes=classes, operating_points=points))
    with pytest.raises(BundleError, match=r"manifest\.json cannot be read"):
        read_manifest(tmp_path)


MEANS_ANOTHER_STATE: dict[str, dict[str, object]] = {
    "another graph": {"files": SHIPPED.files | {"model.onnx": "0" * 64}},
    "other weights": {"files": SHIPPED.files | {"model.safetensors": "0" * 64}},
    "another filter": {"signal": with_section(1.0, 0.0, 0.0, 1.0, 0.0, 0.0)},
    "another scale": {"signal": msgspec.structs.replace(SHIPPED.signal, std_mv=[0.3] * 12)},
    "leads in another order": {"leads": SHIPPED.leads[::-1]},
    "classes in another order": {"classes": SHIPPED.classes[::-1]},
    "another stride": {"stride": 2},
    "another hop": {"hop_s": 2 * SHIPPED.hop_s},
    "another window": {"window_s": 2 * SHIPPED.window_s},
    "another vote": {"vote_hops": SHIPPED.vote_hops + 1},
    "another state": {"state": SHIPPED.state[:-1]},
    "another start": {"state": [msgspec.structs.replace(tensor, init=1.0) for tensor in SHIPPED.state]},
    "another kind": {"kind": "windowed"},
}

MEANS_THE_SAME_STATE: dict[str, dict[str, object]] = {
    "another name": {"name": "other", "version": "9"},
    "another calibration": {"calibration": msgspec.structs.replace(SHIPPED.calibration, bias=[1.0] * 5)},
    "other thresholds": {"operating_points": {}},
    "no float16 graph": {"files": {name: SHIPPED.files[name] for name in ("model.onnx", "model.safetensors")}},
    "no monitor": {"state_monitor": None},
}


@pytest.mark.parametrize("changes", MEANS_ANOTHER_STATE.values(), ids=MEANS_ANOTHER_STATE)
def test_a_state_is_not_gone_on_from_with_what_gives_it_another_meaning(changes: dict[str, object]) -> None:
    assert changed(**changes).state_hash != SHIPPED.state_hash


@pytest.mark.parametrize("changes", MEANS_THE_SAME_STATE.values(), ids=MEANS_THE_SAME_STATE)
def test_a_state_outlives_what_has_nothing_to_do_with_it(changes: dict[str, object]) -> None:
    assert changed(**changes).state_hash == SHIPPED.state_hash


def test_the_hash_of_the_state_is_the_same_after_a_manifest_was_written_and_read(tmp_path: Path) -> None:
    write_manifest(tmp_path, SHIPPED)
    assert read_manifest(tmp_path).state_hash == SHIPPED.state_hash


def test_a_model_is_named_by_the_hash_of_its_graph_alone() -> None:
    assert SHIPPED.model_hash == SHIPPED.files["model.onnx"]
    assert changed(files=SHIPPED.files | {"model.safetensors": "0" * 64}).model_hash == SHIPPED.model_hash


def test_a_float16_graph_that_is_added_keeps_the_streams(tmp_path: Path) -> None:
    bundle = tiny_bundle(tmp_path / "bundle")
    files = {name: digest for name, digest in bundle.manifest.files.items() if name != "model_fp16.onnx"}
    write_manifest(bundle.path, msgspec.structs.replace(bundle.manifest, files=files))
    before = load_bundle(bundle.path)
    assert add_float16_graph(before).manifest.state_hash == before.manifest.state_hash


def changed(**changes: object) -> Manifest:
    return msgspec.structs.replace(SHIPPED, **changes)
