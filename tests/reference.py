"""What the daemon's scores must be: the same samples through the streaming path without a broker."""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np

from edge.monitor.engine import HopScore
from edge.monitor.offline import score_recordings
from edge.runtime.base import Runtime
from edge.runtime.bundle import load_bundle
from edge.runtime.select import open_runtime
from tests.ecg import Int16Array, millivolts

TOLERANCE = 1e-6
"""Half of it is the rounding of published probabilities to six digits; the rest is what another batch size may do."""


@cache
def shipped_runtime() -> Runtime:
    """Return a runtime of the shipped bundle."""
    return open_runtime(load_bundle(), "auto")


def offline_scores(samples: Int16Array, rate_hz: int = 100, runtime: Runtime | None = None) -> list[HopScore]:
    """Score int16 samples, (samples, 12) in microvolts."""
    (scores,) = score_recordings(runtime or shipped_runtime(), [millivolts(samples)], rate_hz)
    return scores


def assert_same_scores(
    published: list[dict[str, Any]], samples: Int16Array, rate_hz: int = 100, runtime: Runtime | None = None
) -> None:
    """Hold what was published, every hop of it, against the offline scores, of the shipped bundle unless said."""
    wanted = offline_scores(samples, rate_hz, runtime)
    assert [score["i"] for score in published] == [score.last_index for score in wanted]
    assert [score["state"] for score in published] == ["ready" if score.ready else "warming" for score in wanted]
    manifest = (runtime or shipped_runtime()).bundle.manifest
    assert all(list(score["p"]) == manifest.classes for score in published)
    found = np.array([list(score["p"].values()) for score in published])
    assert np.abs(found - [score.probabilities for score in wanted]).max() <= TOLERANCE
