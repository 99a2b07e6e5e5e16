"""False alerts against detection as a class's threshold moves: what is there to be had, whatever was chosen."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.special import expit

from edge.runtime.manifest import Manifest
from trainer.streams.alerts import detection, policy_of
from trainer.streams.plan import HEALTHY_STREAMS
from trainer.streams.search import DIGITS, Candidates, off_below, try_all
from trainer.streams.traces import Streams

ON_LOGITS = np.linspace(-3.0, 5.0, 33)
"""`on` from 0.05 to 0.993 in steps of a quarter of a logit."""


@dataclass(frozen=True)
class CurvePoint:
    """What one threshold of a class does on streams; delays as in `trainer.streams.alerts.Detection`."""

    on: float
    off: float
    per_hour: dict[str, float]
    """False alerts per stream-hour by kind of healthy streams, without the daemon's limit on raises per hour."""
    detected_share: float | None
    median_s: float | None
    p95_s: float | None
    median_of_all_s: float | None


def operating_curve(manifest: Manifest, streams: Streams, class_name: str) -> list[CurvePoint]:
    """Return what thresholds from low to high do on streams, with the dwell time that the manifest has for the class.

    Nothing is chosen here, so the curve flatters nobody.
    """
    on = np.round(expit(ON_LOGITS), DIGITS)
    grid = Candidates(on, off_below(on), [manifest.operating_points[class_name].dwell_s])
    policy, patient_s = policy_of(manifest), streams.settings.patient_s
    tried = try_all(streams.traces, class_name, policy, manifest.calibration, grid, patient_s)
    rates = {kind: tried.per_hour(kind)[0] for kind in HEALTHY_STREAMS}
    curve = []
    for k, delays_s in enumerate(tried.delays_s[0]):
        seen = detection(delays_s)
        curve.append(
            CurvePoint(
                on=float(grid.on[k]),
                off=float(grid.off[k]),
                per_hour={kind: float(rate[k]) for kind, rate in rates.items()},
                detected_share=None if seen.undetected_share is None else 1 - seen.undetected_share,
                median_s=seen.median_s,
                p95_s=seen.p95_s,
                median_of_all_s=seen.median_of_all_s,
            )
        )
    return curve
