"""Where the demo's ECG comes from: records at hand, a small download, or a simulated patient, in this order."""

from __future__ import annotations

import http.client
import importlib.util
import os
import urllib.request
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from edge.errors import RecordError
from edge.replay.patient import SCRIPT as PATIENT_SCRIPT
from edge.replay.patient import Episode, simulate
from edge.replay.records import Recording, choose_from_ptbxl, read_recording

ROOT_VARIABLE = "PTBXL_ROOT"
PHYSIONET = "https://physionet.org/files/ptb-xl/1.0.3/"
TIMEOUT_S = 5.0
MAX_FILE_BYTES = 1_000_000
RECORD_S = 10.0
STRETCH_RECORDS = 3
SIMULATED_RATE_HZ = 500
CLASSES = ("NORM", "MI", "STTC", "CD", "HYP")

# Records of PTB-XL's training folds with exactly one superclass, for the download.
DOWNLOADED = {"NORM": (1, 2, 3), "MI": (8, 131, 153), "STTC": (22, 26, 28), "CD": (32, 41, 49), "HYP": (30, 96, 138)}


@dataclass(frozen=True)
class Source:
    """What the devices play."""

    description: str
    kind: str
    """records, ptb-xl, download or simulated."""
    playlists: dict[str, Sequence[Recording]]


def choose_source(
    records: Sequence[Path], root: Path | None, devices: int, seconds: float, say: Callable[[str], None]
) -> Source:
    """Return the first source there is, enough for so many seconds of ECG per device.

    Raises RecordError when records or a root were named and cannot be read: what was asked for is not replaced.
    """
    if records:
        recordings: Sequence[Recording] = [read_recording(path) for path in records]
        if len({(recording.rate_hz, recording.leads) for recording in recordings}) > 1:
            raise RecordError("the records differ in rate or leads and cannot fade into one another: name like ones")
        return Source(f"{len(records)} records", "records", _rotated(recordings, devices, seconds))
    named = root or (Path(os.environ[ROOT_VARIABLE]) if os.environ.get(ROOT_VARIABLE) else None)
    if named is not None:
        return _from_ptbxl(named, devices, seconds)
    try:
        return _from_download(devices, seconds, say)
    except RecordError as error:
        say(f"no real ECG: {error}; a simulated patient plays instead")
    playlists: dict[str, Sequence[Recording]] = {
        name: [simulate(seconds, SIMULATED_RATE_HZ, seed=k, script=_script_from(k))]
        for k, name in enumerate(device_names(devices))
    }
    return Source("SIMULATED patients, not real ECG", "simulated", playlists)


def device_names(devices: int) -> list[str]:
    """Return the names of the demo's devices."""
    return [f"bed-{number + 1}" for number in range(devices)]


def _from_ptbxl(root: Path, devices: int, seconds: float) -> Source:
    per_class = 1 + int(seconds / RECORD_S / 4)
    paths = choose_from_ptbxl(root, CLASSES, per_class)
    by_class = {name: [read_recording(path) for path in paths[k :: len(CLASSES)]] for k, name in enumerate(CLASSES)}
    return Source("PTB-XL records (CC BY 4.0)", "ptb-xl", _alternating(by_class, devices, seconds))


def _from_download(devices: int, seconds: float, say: Callable[[str], None]) -> Source:
    if importlib.util.find_spec("wfdb") is None:
        raise RecordError("wfdb is not installed (pip install 'ecg-edge[wfdb]')")
    folder = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "ecg-edge" / "demo"
    say("fetching a few PTB-XL records from PhysioNet")
    by_class = {name: [_downloaded(folder, number) for number in numbers] for name, numbers in DOWNLOADED.items()}
    return Source("PTB-XL records from PhysioNet (CC BY 4.0)", "download", _alternating(by_class, devices, seconds))


def _alternating(by_class: dict[str, list[Recording]], devices: int, seconds: float) -> dict[str, Sequence[Recording]]:
    """Give each device stretches of normal records and of one class in turn, so that conditions come and go.

    Neighbours begin with different stretches, and with different records of them.
    """
    sick = [name for name in by_class if name != "NORM" and by_class[name]]
    playlists: dict[str, Sequence[Recording]] = {}
    for k, device in enumerate(device_names(devices)):
        stretches = [_from(by_class["NORM"], k), _from(by_class[sick[k % len(sick)]], k // len(sick))]
        wanted = int(seconds / RECORD_S) + 1
        played = [recording for turn in range(wanted) for recording in stretches[(turn + k) % 2]]
        playlists[device] = played[:wanted]
    return playlists


def _from(recordings: Sequence[Recording], first: int, count: int = STRETCH_RECORDS) -> list[Recording]:
    """Return some recordings from one on, around the end."""
    return [recordings[(first + k) % len(recordings)] for k in range(count)] if recordings else []


def _rotated(recordings: Sequence[Recording], devices: int, seconds: float) -> dict[str, Sequence[Recording]]:
    """Give every device all recordings, each beginning with another, repeated until the time is filled."""
    total_s = sum(recording.seconds for recording in recordings)
    rounds = max(1, int(seconds / total_s) + 1)
    return {
        name: [*recordings[k % len(recordings) :], *recordings[: k % len(recordings)]] * rounds
        for k, name in enumerate(device_names(devices))
    }


def _script_from(first: int) -> tuple[Episode, ...]:
    """Return the patient's script, begun at another episode for each device."""
    first %= len(PATIENT_SCRIPT)
    return (*PATIENT_SCRIPT[first:], *PATIENT_SCRIPT[:first])


def _downloaded(folder: Path, number: int) -> Recording:
    """Return a record from the cache or PhysioNet; what is not one (a login page, half a file) is not kept."""
    path = _fetched(folder, number)
    try:
        return read_recording(path)
    except RecordError:
        for ending in ("dat", "hea"):
            path.with_name(f"{path.name}.{ending}").unlink(missing_ok=True)
        raise


def _fetched(folder: Path, number: int) -> Path:
    """Return a record's path in the cache, fetched if it is not there; a file appears only when it is whole."""
    group, name = f"{number // 1000 * 1000:05d}", f"{number:05d}_lr"
    folder.mkdir(parents=True, exist_ok=True)
    for file in (f"{name}.dat", f"{name}.hea"):
        path = folder / file
        if path.is_file():
            continue
        try:
            with urllib.request.urlopen(f"{PHYSIONET}records100/{group}/{file}", timeout=TIMEOUT_S) as response:  # noqa: S310 - https, a constant
                body = response.read(MAX_FILE_BYTES)
        except (OSError, http.client.HTTPException) as error:
            raise RecordError(f"PhysioNet cannot be reached ({getattr(error, 'reason', error)})") from None
        partial = path.with_suffix(f"{path.suffix}.partial")
        partial.write_bytes(body)
        partial.replace(path)
    return folder / name
