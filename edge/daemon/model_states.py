"""What the state monitor sees of all streams together: for the metrics, the health topic and the log."""

from __future__ import annotations

import logging
from collections.abc import Iterable
from functools import partial

import structlog

from edge.alerts.technical import TechnicalCode
from edge.daemon.device_stream import DeviceStream
from edge.daemon.metrics import Metrics
from edge.monitor.engine import Fault
from edge.runtime.manifest import StateMonitor, StateRange
from edge.runtime.state_monitor import StateCheck

log = structlog.get_logger(__name__)


class ModelStates:
    """The largest states there are now, and how often a state was reset. Any thread may ask.

    Without a monitor in the bundle no sizes are known; resets are counted all the same.
    """

    def __init__(self, streams: Iterable[DeviceStream], monitor: StateMonitor | None, metrics: Metrics) -> None:
        self.resets = 0
        self._streams, self._metrics = streams, metrics
        self._ranges: dict[str, StateRange] = {} if monitor is None else monitor.tensors
        for tensor, expected in self._ranges.items():
            metrics.state_rms_ratio.labels(tensor=tensor).set_function(partial(self.worst_ratio, tensor))
            metrics.state_limit_ratio.labels(tensor=tensor).set(expected.limit / expected.p99)

    def worst_ratio(self, tensor: str) -> float:
        """Return the largest size of a tensor among all streams, as a multiple of its 99th percentile; 0 for none."""
        checks = (stream.model.state for stream in self._streams if stream.model is not None)
        return max((check.ratios[tensor] for check in checks if check is not None), default=0.0)

    def note_reset(self, stream: DeviceStream, fault: Fault, check: StateCheck | None) -> None:
        """Count a reset and log it: once as a warning, and while its condition lasts for those who look closely."""
        self.resets += 1
        self._metrics.resets.labels(reason=fault.value).inc()
        told = TechnicalCode.MODEL_STATE in stream.alerts.technical.open
        tensors = [] if check is None else list(check.out_of_range)
        level = logging.DEBUG if told else logging.WARNING
        log.log(level, "model_state_reset", device=stream.device, fault=fault.value, tensors=tensors)

    def picture(self) -> dict[str, object]:
        """Return resets since the start, and tensor → how large it is in the worst stream and where its limit is."""
        ratios = {
            tensor: {
                "rms_ratio": round(self.worst_ratio(tensor), 3),
                "limit_ratio": round(expected.limit / expected.p99, 3),
            }
            for tensor, expected in self._ranges.items()
        }
        return {"resets": self.resets, "tensors": ratios}
