"""What works on this machine and what does not, each with what to do about it."""

from __future__ import annotations

import asyncio
import ctypes
import dataclasses
import importlib.util
import os
import platform
import shutil
import sqlite3
import statistics
import tempfile
import time
from collections.abc import Callable
from importlib import metadata
from pathlib import Path
from typing import Literal

import numpy as np

from edge import __version__
from edge.daemon.broker_settings import CREDENTIALS_VARIABLE, broker_settings
from edge.daemon.config import Config
from edge.daemon.config_file import load_config
from edge.daemon.paho_transport import PahoTransport
from edge.daemon.transport import BrokerSettings, ConnectionState
from edge.database import sqlite_problem
from edge.errors import ConfigError, EcgEdgeError
from edge.runtime.base import Runtime
from edge.runtime.bundle import Bundle, load_bundle
from edge.runtime.manifest import WINDOWED
from edge.runtime.select import available_runtimes, open_or_fall_back
from edge.runtime.tensorrt.targets import NAME as TENSORRT

Outcome = Literal["ok", "warn", "fail"]

PACKAGES = (
    "numpy",
    "onnxruntime",
    "paho-mqtt",
    "msgspec",
    "pydantic",
    "structlog",
    "prometheus-client",
    "rich",
)
BROKER_TIMEOUT_S = 5.0
TIMED_HOPS = 20
LOW_SPACE_BYTES = 256 * 1024 * 1024
NO_SPACE_BYTES = 16 * 1024 * 1024
COARSE_CLOCK_S = 0.001
SERVICE_STATE = Path("/var/lib")
"""Below it systemd keeps the state of services whose users exist only while they run."""
CLOCK_NOT_SYNCHRONISED = 5  # TIME_ERROR, adjtimex(2)
TIMEX_BYTES = 512  # struct timex has 208 bytes on 64-bit Linux
SYSTEM_PROGRAMS = "/usr/sbin:/usr/local/sbin"  # where Debian keeps brokers, outside a user's PATH


@dataclasses.dataclass(frozen=True)
class Check:
    """One thing looked at: how it is, and what to do where it is not well."""

    name: str
    outcome: Outcome
    detail: str
    advice: str = ""


def examine(config_path: Path | None) -> list[Check]:
    """Run all checks; those that depend on the configuration are left out when it has faults."""
    checks = [check_packages(), check_sqlite(), check_clock(), check_mosquitto(), check_wfdb()]
    try:
        config = load_config(config_path)
    except ConfigError as error:
        return [*checks, Check("configuration", "fail", str(error), "correct it: ecg-edge check-config FILE")]
    return [*checks, *check_model(config), check_state_dir(config.node.state_dir), check_broker(config)]


def check_packages() -> Check:
    """Look up the versions of what ecg-edge stands on."""
    versions, missing = [], []
    for name in PACKAGES:
        try:
            versions.append(f"{name} {metadata.version(name)}")
        except metadata.PackageNotFoundError:
            missing.append(name)
    if missing:
        return Check("packages", "fail", f"missing: {', '.join(missing)}", "install ecg-edge again with pip")
    return Check(
        "packages", "ok", f"ecg-edge {__version__}, Python {platform.python_version()}, " + ", ".join(versions)
    )


def check_sqlite(version: tuple[int, ...] = sqlite3.sqlite_version_info) -> Check:
    """See whether the SQLite that comes with Python, or with the system, can keep alerts and snapshots."""
    problem = sqlite_problem(version)
    if problem is not None:
        return Check("sqlite", "fail", problem)
    return Check("sqlite", "ok", f"SQLite {sqlite3.sqlite_version}")


def check_model(config: Config) -> list[Check]:
    """Check the bundle's files against their hashes, try every runtime on it and time the configured one."""
    try:
        bundle = load_bundle(config.model.bundle)
        runtimes = check_runtimes(bundle, config.model.runtime)
    except EcgEdgeError as error:
        return [Check("bundle", "fail", str(error), "install ecg-edge again, or correct model.bundle")]
    manifest = bundle.manifest
    intact = Check("bundle", "ok", f"{manifest.name} {manifest.version} intact, model {manifest.model_hash[:12]}")
    return [intact, *runtimes, check_speed(bundle, config)]


def check_runtimes(bundle: Bundle, configured: str) -> list[Check]:
    """See which runtimes can open the bundle; one is enough.

    The GPU's matters only where it is asked for, and so does any that cannot compute a windowed bundle.
    """
    found = available_runtimes(bundle)
    works = next((name for name, problem in found if problem is None), None)
    spare = set(dict(found)) if bundle.manifest.kind == WINDOWED else {TENSORRT}
    return [_runtime_check(name, problem, works, name in spare - {configured}) for name, problem in found]


def _runtime_check(name: str, problem: str | None, works: str | None, spare: bool) -> Check:
    check = f"runtime {name}"
    if problem is None:
        return Check(check, "ok", "opens the bundle")
    if works is None:
        return Check(check, "fail", problem)
    if spare:
        return Check(check, "ok", f"not asked for; {problem}")
    return Check(check, "warn", problem, f"until then the daemon runs {works}")


def check_speed(bundle: Bundle, config: Config) -> Check:
    """Run hops of silence through what the daemon would run: the score must be finite, and faster than real time."""
    try:
        runtime = open_or_fall_back(bundle, config.model.runtime, config.model.threads)
        hop_ms = _time_hop_ms(runtime)
    except EcgEdgeError as error:
        return Check("speed", "fail", str(error), "correct model.runtime in the configuration")
    hop_s = bundle.manifest.hop_s
    detail = f"{runtime.name} takes {hop_ms:.2f} ms for a hop of {hop_s:g} s"
    if hop_ms > hop_s * 1000:
        return Check("speed", "fail", detail, "this machine is too slow for a single stream")
    return Check("speed", "ok", detail)


def check_broker(config: Config) -> Check:
    """Connect to the broker as the daemon would, under another client id so that a running daemon is left alone."""
    try:
        settings = dataclasses.replace(
            broker_settings(config),
            client_id=f"{config.client_id}-doctor-{os.getpid()}",
            session_expiry_s=0,
            clean_start=True,
            connect_timeout_s=BROKER_TIMEOUT_S,
        )
    except ConfigError as error:
        return Check("broker", "fail", str(error), _credential_advice(error))
    problem = asyncio.run(_connection_problem(settings))
    detail = f"MQTT {config.broker.protocol} at {settings.address}{' with TLS' if settings.tls else ''}"
    if problem is None:
        return Check("broker", "ok", f"{detail} accepts this client")
    return Check("broker", "fail", problem, "correct [broker] in the configuration, or start the broker")


def _credential_advice(error: ConfigError) -> str:
    """Say what to do about a secret that cannot be read: one that only the service is given cannot be tried by hand."""
    if CREDENTIALS_VARIABLE in str(error) and CREDENTIALS_VARIABLE not in os.environ:
        return "only the service can read it: start it, and see journalctl -u ecg-edge"
    return "correct the configuration: ecg-edge check-config FILE"


def check_state_dir(path: Path) -> Check:
    """See whether alerts and snapshots can be written, and how much room they have."""
    existing, advice = path, "correct node.state_dir, or let systemd provide it (StateDirectory= in the unit)"
    try:
        existing = next(folder for folder in (path, *path.parents) if folder.exists())
        with tempfile.TemporaryFile(dir=existing):
            free_bytes = shutil.disk_usage(existing).free
    except PermissionError as error:
        if SERVICE_STATE not in existing.parents and existing != SERVICE_STATE:
            return Check("state_dir", "fail", f"{existing} cannot be written: {error.strerror}", advice)
        detail = f"{existing} cannot be written by this user; the service has a user of its own, which may"
        return Check("state_dir", "warn", detail, "look at the service's log instead, or ask as root (sudo)")
    except OSError as error:
        return Check("state_dir", "fail", f"{existing} cannot be written: {error.strerror}", advice)
    detail = f"{path} {'is writable' if existing == path else 'can be created'}, {free_bytes / 1e9:.1f} GB free"
    if free_bytes < LOW_SPACE_BYTES:
        return Check("state_dir", "fail" if free_bytes < NO_SPACE_BYTES else "warn", detail, "free some space")
    return Check("state_dir", "ok", detail)


def check_clock(synchronised: Callable[[], bool | None] | None = None) -> Check:
    """See whether UTC is kept by somebody (alerts carry it) and whether the monotonic clock is fine enough."""
    resolution_s = time.get_clock_info("monotonic").resolution
    state = (synchronised or _kernel_clock_synchronised)()
    detail = f"UTC {_SYNCHRONISATION[state]}, monotonic resolution {resolution_s * 1e9:.0f} ns"
    if state is False:
        return Check("clock", "warn", detail, "synchronise it: systemctl enable --now systemd-timesyncd (or chrony)")
    if resolution_s > COARSE_CLOCK_S:
        return Check("clock", "warn", detail, "latencies below this resolution cannot be measured")
    return Check("clock", "ok", detail)


def check_mosquitto() -> Check:
    """Look for a broker to run here; only the demo, the tests and a device with its own broker need one."""
    program = shutil.which("mosquitto") or shutil.which("mosquitto", path=SYSTEM_PROGRAMS)
    if program is None:
        return Check("mosquitto", "warn", "not installed; needed for a broker on this machine", "apt install mosquitto")
    return Check("mosquitto", "ok", program)


def check_wfdb() -> Check:
    """Look for the reader of ECG records; only replay and score need it."""
    if importlib.util.find_spec("wfdb") is None:
        return Check("wfdb", "warn", "not installed; replay and score need it", "pip install 'ecg-edge[wfdb]'")
    return Check("wfdb", "ok", f"wfdb {metadata.version('wfdb')}")


_SYNCHRONISATION = {True: "synchronised", False: "not synchronised", None: "synchronisation unknown"}


def _kernel_clock_synchronised() -> bool | None:
    """Ask the kernel, which every time daemon tells (adjtimex(2), reading only); None where it cannot be asked."""
    try:
        state = ctypes.CDLL(None).adjtimex(ctypes.create_string_buffer(TIMEX_BYTES))
    except (OSError, AttributeError):
        return None
    return None if state < 0 else bool(state != CLOCK_NOT_SYNCHRONISED)


def _time_hop_ms(runtime: Runtime) -> float:
    """Return the median time of one stream's hop."""
    manifest = runtime.bundle.manifest
    frames = np.zeros((1, manifest.hop_samples, len(manifest.leads)), dtype=np.float32)
    slot, times_ms = runtime.open_slot(), []
    try:
        for _ in range(TIMED_HOPS):
            begun_s = time.perf_counter()
            logits = runtime.step([slot], frames)
            times_ms.append((time.perf_counter() - begun_s) * 1000)
    finally:
        runtime.close_slot(slot)
    if not np.isfinite(logits).all():
        raise EcgEdgeError(f"{runtime.name} gives a score that is not finite")
    return statistics.median(times_ms)


async def _connection_problem(settings: BrokerSettings) -> str | None:
    """Connect once; return why it failed, None when the broker accepted."""
    decided = asyncio.Event()

    def on_state(state: ConnectionState) -> None:
        if state in (ConnectionState.CONNECTED, ConnectionState.WAITING):
            decided.set()

    transport = PahoTransport(settings, on_message=lambda _: None, on_state=on_state)
    task = asyncio.create_task(transport.run(), name="doctor-transport")
    try:
        await asyncio.wait_for(decided.wait(), 2 * settings.connect_timeout_s)
        return str(transport.problem) if transport.problem is not None else None
    except asyncio.TimeoutError:
        return f"{settings.address} does not answer"
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
