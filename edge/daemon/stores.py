"""What a daemon keeps on disk: its folder's lock, its alerts, its streams. Without a disk it watches all the same."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from io import FileIO
from pathlib import Path

import structlog

from edge.alerts.outbox import AlertStore
from edge.daemon.snapshots import Snapshot, SnapshotStore
from edge.daemon.state_dir import lock_state_dir
from edge.errors import DiskError

ALERTS_NAME = "alerts.sqlite"
SNAPSHOTS_NAME = "snapshots.sqlite"
IN_MEMORY = Path(":memory:")
"""What SQLite calls a database that is nowhere."""

log = structlog.get_logger(__name__)


class NoSnapshots:
    """Stands in for a store of snapshots where there is no disk: keeps nothing."""

    def write(self, snapshots: Iterable[Snapshot]) -> int:
        """Pass over them."""
        return 0

    def read(self, newer_than_ns: int) -> list[Snapshot]:
        """Return none."""
        return []

    def remove(self, device: str) -> None:
        """Have nothing to remove."""

    def close(self) -> None:
        """Have nothing to close."""


@dataclass
class Stores:
    """The stores in use. `problems` says what is not kept, and why."""

    alerts: AlertStore
    snapshots: SnapshotStore | NoSnapshots
    lock: FileIO | None
    problems: list[str] = field(default_factory=list)

    def close(self) -> None:
        """Close them all, the lock last."""
        self.alerts.close()
        self.snapshots.close()
        if self.lock is not None:
            self.lock.close()


def open_stores(state_dir: Path, on_dropped: Callable[[int], None]) -> Stores:
    """Open what stands in the folder, and in memory what a full, read-only or broken disk refuses.

    A monitor that does not start watches nobody; one without a disk loses its alerts only if it ends before they are
    delivered. Raises StorageError for what is no fault of the disk's: a folder in use, or that cannot be made, or a
    file of a newer version.
    """
    problems: list[str] = []
    lock: FileIO | None = None
    snapshots: SnapshotStore | NoSnapshots = NoSnapshots()
    try:
        lock = lock_state_dir(state_dir)
    except DiskError as error:
        problems.append(str(error))
    try:
        alerts = AlertStore(state_dir / ALERTS_NAME, on_dropped=on_dropped)
    except DiskError as error:
        alerts = AlertStore(IN_MEMORY, on_dropped=on_dropped)
        problems.append(str(error))
    try:
        snapshots = SnapshotStore(state_dir / SNAPSHOTS_NAME)
    except DiskError as error:
        problems.append(str(error))
    for problem in problems:
        log.error("not_kept_on_disk", problem=problem, advice="mend the disk and restart; it is in memory until then")
    return Stores(alerts, snapshots, lock, problems)
