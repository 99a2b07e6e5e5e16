"""A replay: several devices playing recordings at once, until they end or somebody stops them."""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass, field, replace
from threading import Event

from edge.replay.device import ENCODERS, Departure, Device, Encoder, Sent, chunks_of
from edge.replay.perturb import Network
from edge.replay.records import Recording
from edge.stream.wire import Chunk

CROSSFADE_S = 0.5


@dataclass(frozen=True)
class Plan:
    """How recordings are played."""

    host: str
    port: int
    speed: float = 1.0
    chunk_s: float = 0.2
    encode: Encoder = ENCODERS["msgpack"]
    new_sessions: bool = False
    """Each recording is a session of its own; otherwise one fades into the next."""
    loop: bool = False
    network: Network = field(default_factory=Network)


def play_devices(
    plan: Plan,
    playlists: dict[str, Sequence[Recording]],
    stop: Event,
    on_sent: Callable[[str, Chunk], None] = lambda device, chunk: None,
) -> dict[str, Sent]:
    """Play each device's recordings until all have ended or `stop` is set; return what each has sent.

    Raises TransportError when a device finds no broker and RecordError when its recordings cannot be played; the others
    are stopped then.
    """
    session = f"replay-{time.time_ns() // 1_000_000}"
    with ThreadPoolExecutor(len(playlists), thread_name_prefix="device") as threads:
        jobs = {
            name: threads.submit(_play, plan, name, number, recordings, session, stop, on_sent)
            for number, (name, recordings) in enumerate(playlists.items())
        }
        try:
            for job in as_completed(jobs.values()):
                job.result()
            return {name: job.result() for name, job in jobs.items()}
        except BaseException:
            stop.set()
            raise


def departures_of(plan: Plan, number: int, recordings: Sequence[Recording], session: str) -> Iterator[Departure]:
    """Return one device's chunks as its network delivers them; `number` tells devices' random numbers apart."""
    playlist: Iterable[Recording] = itertools.cycle(recordings) if plan.loop else recordings
    departures = chunks_of(playlist, session, plan.chunk_s, None if plan.new_sessions else CROSSFADE_S)
    return replace(plan.network, seed=plan.network.seed + number).apply(departures)


def _play(
    plan: Plan,
    name: str,
    number: int,
    recordings: Sequence[Recording],
    session: str,
    stop: Event,
    on_sent: Callable[[str, Chunk], None],
) -> Sent:
    with Device(name, plan.host, plan.port, plan.encode) as device:
        departures = departures_of(plan, number, recordings, session)
        device.play(departures, plan.speed, stop, lambda chunk: on_sent(name, chunk))
        return device.sent
