"""The daemon from socket to score: how many streams it holds, what they cost, and against a client that only counts."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from edge.bench.effort import DaemonEffort
from edge.bench.load import Plan
from edge.bench.search import most_that_holds
from edge.bench.stand import Model
from edge.bench.tries import try_bare_client, try_daemon

Tell = Callable[[str], None]
Try = Callable[[int], dict[str, Any]]

THOUSAND = 1000


def measure_daemon(model: Model, hop_samples: int, effort: DaemonEffort, tell: Tell) -> dict[str, Any]:
    """Climb the ladder, search for the most streams, then for the bare client's; return all tries and what they say."""

    def daemon(streams: int) -> dict[str, Any]:
        return try_daemon(model, Plan(streams, effort.try_s, effort.warm_up_s, hop_samples))

    ladder = Tries("daemon", daemon, 1, tell)
    for streams in effort.ladder:
        ladder.holds(streams)
    tries = Tries("daemon", daemon, effort.tries, tell)
    held = tries.search(effort.first, effort.resolution, effort.search_s)
    bare = Tries("bare client", lambda streams: try_bare_client(streams, effort.bare_s), effort.tries, tell)
    bare_held = bare.search(2 * max(held, effort.first), effort.resolution, effort.bare_search_s)
    return summary_of([*ladder.rows, *tries.rows], bare.rows, held or best_of_ladder(ladder.rows), bare_held)


def best_of_ladder(rows: list[dict[str, Any]]) -> int:
    """Return the most streams of some rows that were held."""
    return max((row["streams"] for row in rows if row["held"]), default=0)


def summary_of(
    rows: list[dict[str, Any]], bare_rows: list[dict[str, Any]], held: int, bare_held: int
) -> dict[str, Any]:
    """Return what the tries say: the most streams held, how late their scores were, what a thousand cost."""
    by_streams = {row["streams"]: row for row in sorted(rows, key=lambda row: bool(row["held"]))}
    best, least = by_streams.get(held), by_streams[min(by_streams)]
    bare = next((row for row in bare_rows if row["streams"] == bare_held and row["held"]), None)
    return {
        "streams": held,
        "limited_by": limited_by(rows, held),
        "p99_ms": None if best is None else best["latency_ms"].get("p99"),
        "median_ms": None if best is None else best["latency_ms"].get("median"),
        "messages_per_s": None if best is None else best["messages_per_s"],
        "cpu_percent_per_1000_streams": per_thousand(best, least, "cpu_percent"),
        "memory_mb_per_1000_streams": per_thousand(best, least, "memory_mb"),
        "tries": rows,
        "bare_client": {
            "streams": bare_held,
            "limited_by": limited_by(bare_rows, bare_held),
            "messages_per_s": None if bare is None else bare["messages_per_s"],
            "tries": bare_rows,
        },
        "messages_over_bare_client": None if best is None or bare is None else held / bare_held,
        "messages_per_cpu_over_bare_client": None if best is None or bare is None else _per_cpu(best) / _per_cpu(bare),
    }


def limited_by(rows: list[dict[str, Any]], held: int) -> str:
    """Return why the next more streams that were tried were not held."""
    failed = [row for row in rows if row["streams"] > held and not row["held"]]
    return min(failed, key=lambda row: int(row["streams"]))["why_not"] if failed else "no more were tried"


def per_thousand(best: dict[str, Any] | None, least: dict[str, Any], what: str) -> float | None:
    """Return what a thousand further streams cost, from the fewest measured to the most that held."""
    if best is None or best["streams"] <= least["streams"]:
        return None
    slope = (best[what] - least[what]) / (best["streams"] - least["streams"])
    return float(slope) * THOUSAND


class Tries:
    """Tries numbers of streams and keeps what was found."""

    def __init__(self, what: str, attempt: Try, times: int, tell: Tell) -> None:
        self.rows: list[dict[str, Any]] = []
        self._what, self._attempt, self._times, self._tell = what, attempt, times, tell

    def search(self, first: int, resolution: float, seconds: float) -> int:
        """Return the most streams that held, beginning with `first`; after so many seconds none is tried anew."""
        end_s = time.monotonic() + seconds
        return most_that_holds(self.holds, first, resolution, lambda: time.monotonic() < end_s)

    def holds(self, streams: int) -> bool:
        """Try a number of streams, again where it fails and may; keep the last try."""
        for k in range(self._times):
            row = self._attempt(streams)
            self._tell(f"{self._what}: {streams} streams {'held' if row['held'] else 'not held: ' + row['why_not']}")
            if row["held"] or k == self._times - 1:
                break
        self.rows.append(row)
        return bool(row["held"])


def _per_cpu(row: dict[str, Any]) -> float:
    """Messages per second of CPU time."""
    return float(row["messages_per_s"]) * 100 / max(float(row["cpu_percent"]), 1e-9)
