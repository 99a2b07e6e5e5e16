"""What a hop costs in the daemon: every model's bundle in the runtime that `auto` means here, on one core, in turns."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import ExitStack

import msgspec

from edge.bench.timing import Steps, least_seconds
from edge.runtime.bundle import Bundle
from edge.runtime.select import open_runtime

SECONDS_EACH = 0.5


class HopCost(msgspec.Struct, frozen=True):
    """A hop of one stream by itself, in CPU time."""

    runtime: str
    hop_s: float
    ms: float

    @property
    def streams_per_core(self) -> float:
        """Streams in real time that a core carries one by one."""
        return 1000 * self.hop_s / self.ms


def hop_costs(bundles: Mapping[str, Bundle], seconds_each: float = SECONDS_EACH) -> dict[str, HopCost]:
    """Time a hop of one stream of every bundle, the least of many short runs; raises as `open_runtime` does."""
    with ExitStack() as stack:
        runtimes = {name: open_runtime(bundle) for name, bundle in bundles.items()}
        steps = {name: stack.enter_context(Steps(runtime, 1)) for name, runtime in runtimes.items()}
        cases = {name: steps[name].of(1, bundle.manifest.hop_samples) for name, bundle in bundles.items()}
        least = least_seconds(seconds_each * len(cases), cases)
    return {
        name: HopCost(runtimes[name].name, bundle.manifest.hop_s, 1000 * least[name])
        for name, bundle in bundles.items()
    }
