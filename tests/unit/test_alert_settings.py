"""The policy that alerts follow: the bundle's operating points, and what the configuration says otherwise."""

from __future__ import annotations

from pathlib import Path

import pytest

from edge.alerts.events import Priority
from edge.daemon.alert_settings import alert_policy
from edge.daemon.config_file import parse_config
from edge.errors import ConfigError
from edge.runtime.manifest import Calibration, Manifest, OperatingPoint, SignalSpec

CLASSES = ["NORM", "MI", "HYP"]
MANIFEST = Manifest(
    name="test",
    version="1",
    notice="research",
    classes=CLASSES,
    leads=["I"],
    signal=SignalSpec(100, (0.05, 40.0), [(1.0, 0.0, 0.0, 1.0, 0.0, 0.0)], [0.0], [1.0]),
    stride=4,
    window_s=10.0,
    hop_s=0.4,
    state=[],
    calibration=Calibration([1.0] * 3, [0.0] * 3),
    operating_points={name: OperatingPoint(0.5, 0.6, 0.4, 4.0) for name in CLASSES},
    files={"model.onnx": "0" * 64, "model.safetensors": "0" * 64},
)


def test_without_overrides_the_bundle_decides() -> None:
    policy = alert_policy(parse_config("", "t", Path("/")).alerts, MANIFEST)
    assert policy.points == MANIFEST.operating_points
    assert policy.alerting == ("MI", "HYP")
    assert (policy.refractory_s, policy.expires_s, policy.hop_s, policy.window_s) == (30.0, 120.0, 0.4, 10.0)


def test_an_override_changes_what_it_names_and_nothing_else() -> None:
    text = "[alerts]\nrefractory_s = 7.0\n[alerts.classes.MI]\non = 0.8\n[alerts.classes.HYP]\npriority = 'high'\n"
    policy = alert_policy(parse_config(text, "t", Path("/")).alerts, MANIFEST)
    assert policy.points["MI"] == OperatingPoint(0.5, 0.8, 0.4, 4.0)
    assert policy.points["HYP"] == MANIFEST.operating_points["HYP"]
    assert (policy.priority("MI"), policy.priority("HYP")) == (Priority.HIGH, Priority.HIGH)
    assert policy.refractory_s == 7.0


def test_classes_without_alerts_and_crossing_thresholds_are_told_together() -> None:
    text = "[alerts.classes.NORM]\non = 0.9\n[alerts.classes.AFIB]\non = 0.9\n[alerts.classes.MI]\non = 0.3\n"
    with pytest.raises(ConfigError) as caught:
        alert_policy(parse_config(text, "t", Path("/")).alerts, MANIFEST)
    assert [problem.split(":")[0] for problem in caught.value.problems] == ["NORM", "AFIB", "MI"]
