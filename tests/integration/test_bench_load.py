"""The load generator against a real broker and a real daemon: nothing is lost, and every score is timed."""

from __future__ import annotations

from pathlib import Path

from edge.bench.load import Load, Plan
from tests.daemon import Daemon
from tests.mosquitto import Mosquitto


def test_every_chunk_is_acknowledged_and_every_score_comes_back(tmp_path: Path, broker: Mosquitto) -> None:
    daemon = Daemon(tmp_path, broker).start()
    try:
        with Load(broker.host, broker.port, Plan(streams=6, seconds=2.0)) as load:
            report = load.run(settle_s=3.0)
    finally:
        daemon.kill()
    assert report.sent == report.acknowledged == 3 * 4 + 3 * 3
    assert report.scores == report.scores_due == 3 * 2 + 3 * 1
    assert 0 < report.latency_ms["median"] <= report.latency_ms["max"]
