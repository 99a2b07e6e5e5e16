"""How much is measured: all of it in a few minutes, or enough for a first look in less than one."""

from __future__ import annotations

from dataclasses import dataclass

RUNTIMES_PART, DAEMON_PART = PARTS = ("runtimes", "daemon")
ILL_SHARE = 0.05
"""Of the devices under load: those whose patient falls ill and recovers every minute."""
LOAD_SECONDS = 60.0
"""How long a single load is kept up, unless told otherwise."""


@dataclass(frozen=True)
class RuntimeEffort:
    """Of the runtimes, their rivals and the cold start."""

    seconds: float
    """For each comparison: one batch and length of a step, all that are compared taking turns."""
    batches: tuple[int, ...]
    lengths: tuple[int, ...]
    """Samples of a step, besides the bundle's own hop."""
    rival_batches: tuple[int, ...]
    every_width: bool
    """Whether the native kernel's narrower builds are measured, too."""
    starts: int
    """Processes started anew for start-up and memory; the quickest counts."""
    streams: int
    """Opened for the memory of one; with a first batch of 64 they should fill a power of two, as arrays of slots do."""


@dataclass(frozen=True)
class DaemonEffort:
    """Of the daemon under load."""

    ladder: tuple[int, ...]
    """Numbers of streams whose cost is always measured."""
    first: int
    """Where the search for the most streams begins."""
    resolution: float
    """Ends when the least that failed is less than so many times the most that held."""
    warm_up_s: float
    """Streams open, queues fill; what follows is measured."""
    try_s: float
    tries: int
    """How often a number of streams may fail: other work on the machine disturbs one try, not two."""
    search_s: float
    """After this long no further number of streams is tried."""
    starts: int
    """Daemons started one after another, for the time until it scores; the quickest counts."""
    bare_s: float
    """A try of the bare client."""
    bare_search_s: float


@dataclass(frozen=True)
class Effort:
    """All of it."""

    runtimes: RuntimeEffort
    daemon: DaemonEffort


FULL = Effort(
    RuntimeEffort(
        seconds=4.0, batches=(1, 16, 64, 256), lengths=(10, 25, 50, 100), rival_batches=(1, 16), every_width=True,
        starts=5, streams=960,
    ),
    DaemonEffort(
        ladder=(1, 10, 100), first=500, resolution=1.1, warm_up_s=5.0, try_s=15.0, tries=2, search_s=400.0, starts=3,
        bare_s=8.0, bare_search_s=120.0,
    ),
)  # fmt: skip

QUICK = Effort(
    RuntimeEffort(
        seconds=0.6, batches=(1, 16, 64), lengths=(), rival_batches=(1, 16), every_width=False, starts=2, streams=192
    ),
    DaemonEffort(
        ladder=(1,), first=500, resolution=1.5, warm_up_s=1.0, try_s=2.0, tries=1, search_s=12.0, starts=1,
        bare_s=1.5, bare_search_s=8.0,
    ),
)  # fmt: skip
