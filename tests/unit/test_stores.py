"""What a daemon keeps on disk, and how it starts where a disk takes nothing."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from edge.daemon.snapshots import SnapshotStore
from edge.daemon.stores import open_stores
from edge.errors import StorageError

ON_A_FULL_DISK = """
import resource, sys
from pathlib import Path
from edge.daemon.stores import open_stores
from tests.unit.test_outbox import alert, put

resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[2]), int(sys.argv[2])))  # no file may grow beyond
stores = open_stores(Path(sys.argv[1]), print)
put(stores.alerts, alert())
assert stores.alerts.open_conditions() == [alert()]
assert stores.snapshots.write([]) == 0 and stores.snapshots.read(0) == []
print(len(stores.problems), *stores.problems, sep="\\n", file=sys.stderr)
stores.close()
"""


def test_on_a_disk_that_works_all_is_kept_there(tmp_path: Path) -> None:
    stores = open_stores(tmp_path / "state", lambda dropped: None)
    assert stores.problems == []
    assert isinstance(stores.snapshots, SnapshotStore)
    with pytest.raises(StorageError, match="in use by another daemon"):
        open_stores(tmp_path / "state", lambda dropped: None)
    stores.close()
    assert {path.name for path in (tmp_path / "state").iterdir()} == {"lock", "alerts.sqlite", "snapshots.sqlite"}


@pytest.mark.parametrize("before", [False, True], ids=["nothing-there-yet", "after-days"])
def test_on_a_full_disk_alerts_are_kept_in_memory_and_it_is_said_why(tmp_path: Path, before: bool) -> None:
    if before:
        open_stores(tmp_path, lambda dropped: None).close()
    ended = subprocess.run(
        [sys.executable, "-c", ON_A_FULL_DISK, str(tmp_path), "1024"], capture_output=True, text=True, check=True
    )
    count, *problems = ended.stderr.splitlines()
    assert int(count) == len(problems) == 2
    assert problems[0].startswith(f"alert store {tmp_path}/alerts.sqlite: ")
    assert problems[1].startswith(f"snapshots {tmp_path}/snapshots.sqlite: ")
    after = open_stores(tmp_path, lambda dropped: None)
    assert after.problems == []
    after.close()


def test_what_is_no_fault_of_the_disk_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(StorageError, match=r"set node\.state_dir"):
        open_stores(tmp_path / "file" / "state", lambda dropped: None)
