"""All alerts of one stream: what a scored hop, and what the stream itself, makes of its conditions."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import numpy as np
from numpy.typing import NDArray

from edge.alerts.decide import ClassAlerts
from edge.alerts.events import AlertEvent, Model, Moment, Point, Reason
from edge.alerts.policy import AlertPolicy
from edge.alerts.technical import WITHOUT_SIGNAL, TechnicalAlerts, TechnicalCode, codes_of
from edge.monitor.engine import HopScore
from edge.monitor.path import Hop
from edge.runtime.manifest import Manifest
from edge.signal.quality import QualityReport, assessor_for
from edge.stream.runs import Reset


class StreamAlerts:
    """Judges the signal of a device, decides its class alerts and keeps its technical conditions."""

    def __init__(self, device: str, node: str, model: Model, policy: AlertPolicy, manifest: Manifest) -> None:
        self._hop_s = manifest.hop_s
        self._manifest = manifest
        self._quality = assessor_for(tuple(manifest.leads), manifest.signal.rate_hz, None)
        self.classes = ClassAlerts(device, node, model, policy)
        self.technical = TechnicalAlerts(device, node, update_every_s=policy.update_every_s, expires_s=policy.expires_s)

    def restore(self, conditions: Iterable[AlertEvent]) -> list[AlertEvent]:
        """Go on with the conditions that were open before a restart; return clears of what is no longer watched."""
        conditions = tuple(conditions)
        return [*self.classes.restore(conditions), *self.technical.restore(conditions)]

    def expect(self, full_scale_mv: tuple[float, float]) -> None:
        """Take note of the range of the device's samples: what stands at its ends is clipped."""
        signal = self._manifest.signal
        self._quality = assessor_for(tuple(self._manifest.leads), signal.rate_hz, full_scale_mv)

    def step(self, moment: Moment, hop: Hop, score: HopScore) -> tuple[list[AlertEvent], QualityReport]:
        """Take a scored hop; return what changes and how good its signal is."""
        quality = self._quality.assess(hop.raw_mv, hop.invalid)
        present = set(codes_of(quality.issues))
        if hop.reset is Reset.GAP:
            present.add(TechnicalCode.GAP)
        if not score.healthy:
            present.add(TechnicalCode.MODEL_STATE)
        events = self.technical.observe_hop(moment, present, self._hop_s, quality.score)
        return [*events, *self.classes.step(moment, score.probabilities, quality, score.ready)], quality

    def poll(self, moment: Moment, present: set[TechnicalCode], elapsed_s: float, decided: bool) -> list[AlertEvent]:
        """Take what is known without a hop: silence, overload, unfit leads.

        `decided` says that the session is the device's own word, and that no hop is left that anything waits for.
        """
        events = self.technical.observe_stream(moment, present, elapsed_s)
        if WITHOUT_SIGNAL & present:
            ended = self.classes.end_foreign(moment.session) if decided else []
            events += [*ended, *self.classes.keep(moment.now_ns)]
        return events

    def is_open(self, code: TechnicalCode) -> bool:
        """Whether a technical condition stands."""
        return code in self.technical.open

    def close_all(self, at: Point, reason: Reason) -> list[AlertEvent]:
        """End every open condition."""
        return [*self.classes.close_all(reason), *self.technical.close_all(at, reason)]

    def adopt(self, policy: AlertPolicy) -> None:
        """Follow a changed policy from the next hop on."""
        self.classes.policy = policy
        self.technical.adopt(policy.update_every_s, policy.expires_s)

    def to_state(self) -> dict[str, object]:
        """Return the progress of class alerts for a snapshot; technical conditions begin anew."""
        return self.classes.to_state()

    def from_state(self, state: Mapping[str, object]) -> None:
        """Put back what `to_state` returned; raises StorageError when it cannot be read."""
        self.classes.from_state(state)


def by_class(manifest: Manifest, probabilities: NDArray[np.float64]) -> dict[str, float]:
    """Return class → probability with as many digits as mean something."""
    return {name: round(p, 6) for name, p in zip(manifest.classes, probabilities.tolist(), strict=True)}
