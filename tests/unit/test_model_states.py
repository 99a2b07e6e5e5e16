"""What the daemon tells of its streams' states: the worst of each tensor, and every reset, once aloud."""

from __future__ import annotations

import json
from types import SimpleNamespace

import pytest
from prometheus_client.parser import text_string_to_metric_families
from structlog.testing import capture_logs

from edge.alerts.technical import TechnicalCode
from edge.daemon.metrics import Metrics
from edge.daemon.model_states import ModelStates
from edge.monitor.engine import Fault, ModelStream
from edge.runtime.manifest import StateMonitor, StateRange
from edge.runtime.state_monitor import StateCheck

MONITOR = StateMonitor({
    "ssm_0": StateRange(p50=1.0, p99=2.0, p99_9=2.5, max=3.0, limit=9.0),
    "ssm_1": StateRange(p50=1.0, p99=4.0, p99_9=4.5, max=5.0, limit=15.0),
})  # fmt: skip


def followed(check=None, open_conditions=()):
    """Return as much of a stream as is looked at."""
    technical = SimpleNamespace(open=dict.fromkeys(open_conditions))
    alerts = SimpleNamespace(technical=technical)
    return SimpleNamespace(device="bed", model=ModelStream(0, state=check), alerts=alerts)


@pytest.fixture
def metrics():
    return Metrics()


def samples_of(metrics, name):
    """Return label → value of a metric as it is scraped."""
    families = text_string_to_metric_families(metrics.render().decode())
    return {
        tuple(sample.labels.values()): sample.value
        for family in families
        for sample in family.samples
        if sample.name == f"ecg_edge_{name}"
    }


def test_the_worst_stream_is_told_for_every_tensor_as_streams_come_and_go(metrics):
    streams = []
    states = ModelStates(streams, MONITOR, metrics)
    assert samples_of(metrics, "state_rms_ratio") == {("ssm_0",): 0.0, ("ssm_1",): 0.0}
    streams += [
        followed(StateCheck({"ssm_0": 0.5, "ssm_1": 1.5}, ())),
        followed(StateCheck({"ssm_0": 0.75, "ssm_1": 0.25}, ())),
        followed(),  # not looked at yet
        SimpleNamespace(model=None),  # has had no hop yet
    ]
    assert samples_of(metrics, "state_rms_ratio") == {("ssm_0",): 0.75, ("ssm_1",): 1.5}
    assert samples_of(metrics, "state_limit_ratio") == {("ssm_0",): 4.5, ("ssm_1",): 3.75}
    del streams[0]
    assert states.picture() == {
        "resets": 0,
        "tensors": {
            "ssm_0": {"rms_ratio": 0.75, "limit_ratio": 4.5},
            "ssm_1": {"rms_ratio": 0.25, "limit_ratio": 3.75},
        },
    }
    assert json.loads(json.dumps(states.picture())) == states.picture()


def test_a_reset_is_counted_under_its_reason_and_a_warning_once_while_its_condition_lasts(metrics):
    states = ModelStates([], MONITOR, metrics)
    with capture_logs() as logs:
        states.note_reset(followed(), Fault.STATE, StateCheck({"ssm_0": 9.0, "ssm_1": 0.1}, ("ssm_0",)))
        states.note_reset(followed(open_conditions=[TechnicalCode.MODEL_STATE]), Fault.OUTPUT, None)
    assert [(line["log_level"], line["fault"], line["tensors"]) for line in logs] == [
        ("warning", "model_state", ["ssm_0"]), ("debug", "model_output", []),
    ]  # fmt: skip
    assert states.picture()["resets"] == 2
    assert samples_of(metrics, "resets_total") == {("model_state",): 1.0, ("model_output",): 1.0}


def test_a_bundle_without_a_monitor_tells_no_sizes(metrics):
    states = ModelStates([followed()], None, metrics)
    assert states.picture() == {"resets": 0, "tensors": {}}
    assert samples_of(metrics, "state_rms_ratio") == {}
