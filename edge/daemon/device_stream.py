"""One device's stream inside the daemon: chunks in, hops waiting for the model, bounded and restorable."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field

import msgspec
import numpy as np
from numpy.typing import NDArray

from edge.alerts.events import Moment
from edge.daemon.snapshots import MODEL_PREFIX, Arrays, Snapshot, pack, unpack
from edge.daemon.stream_alerts import StreamAlerts
from edge.errors import LeadsError, PayloadError, SignalError, StorageError
from edge.monitor.engine import ModelStream
from edge.monitor.path import Hop, StreamPath
from edge.monitor.votes import Votes
from edge.runtime.base import Runtime, State
from edge.runtime.manifest import Manifest
from edge.stream.assembler import Assembler, AssemblerLimits, Position
from edge.stream.runs import Hold, Reset, Run
from edge.stream.wire import Chunk, Layout, decode, encode_msgpack

CHUNKS_MISSED = 2
"""A device of long chunks is silent when it could have sent so many."""
VOTES = "votes"
"""What the votes are called in a snapshot."""


class WaitingHop(msgspec.Struct, frozen=True):
    """A hop in the queue, and whose it is and when it came: its stream may be in another session by its turn."""

    hop: Hop
    layout: Layout
    arrived_s: float
    time_ns: int | None

    def moment(self, now_ns: int, latency_ms: float) -> Moment:
        """Return where the stream stood at the end of this hop, for the alerts."""
        return Moment(self.layout.session, self.hop.last_index, self.layout.rate_hz, self.time_ns, now_ns, latency_ms)


@dataclass(frozen=True)
class RestoredModel:
    """The model's state in a snapshot, until the runtime is given it."""

    state: State
    hops_seen: int
    votes: Votes | None


@dataclass(eq=False)
class DeviceStream:
    """Assembles, filters and queues one device's ECG. Not thread-safe: it belongs to the event loop."""

    device: str
    manifest: Manifest
    limits: AssemblerLimits
    backlog_hops: int
    alerts: StreamAlerts
    last_arrival_s: float
    model: ModelStream | None = None
    in_flight: bool = False
    """True while a hop of this stream is with the runtime: nothing else may touch its slot then."""
    queued: bool = False
    """True while it waits for its turn: see `Registry.enqueue`."""
    changed: bool = False
    """True when there is something a snapshot does not yet hold."""
    chunk_s: float = 0.0
    """How long the last chunk was: no more is to be heard for as long."""
    heard: bool = False
    """Whether anything of use has come since the daemon's start."""
    left_at: Moment | None = None
    """Where it stood before a restart, if that is all that is known of it."""
    unfit: LeadsError | SignalError | None = None
    dropped_samples: int = 0
    resets: list[Reset] = field(default_factory=list)
    """Resets since they were last taken note of."""
    waiting: deque[WaitingHop] = field(default_factory=deque)
    _path: StreamPath | None = None
    _restored: RestoredModel | None = None

    def __post_init__(self) -> None:
        self.assembler = Assembler(self.limits, wanted=tuple(self.manifest.leads))

    @property
    def session(self) -> str:
        """The session the stream is in, empty before the first chunk."""
        return "" if self.assembler.position is None else self.assembler.position.layout.session

    @property
    def waiting_since_s(self) -> float | None:
        """When the oldest waiting hop arrived, None when none waits. Any thread may ask."""
        try:
            return self.waiting[0].arrived_s
        except IndexError:
            return None

    def silent_after_s(self, at_least_s: float) -> float:
        """Return how long nothing may come: longer of a device whose chunks are further apart."""
        return max(at_least_s, CHUNKS_MISSED * self.chunk_s)

    def is_uneventful(self, silent_since_s: float) -> bool:
        """Whether there is nothing to look after: thousands of streams are asked this every second."""
        return not (
            self.waiting
            or self.resets
            or self.unfit is not None
            or self.dropped_samples
            or self.last_arrival_s < silent_since_s
            or self.assembler.waits
            or self.assembler.counters.eventful
            or not self.alerts.technical.calm
        )

    def receive(self, chunk: Chunk, now_s: float) -> None:
        """Take a chunk; complete hops join the queue. One of no use is none: the stream may well be silent."""
        runs = self.assembler.push(chunk, now_s)
        if not self.assembler.ignores:
            self.last_arrival_s, self.changed, self.heard = now_s, True, True
            self.chunk_s = len(chunk.samples) / chunk.rate_hz
        self._take(runs, now_s)

    def poll(self, now_s: float) -> None:
        """Give up on chunks that are overdue."""
        if self.assembler.deadline_s is not None:
            self._take(self.assembler.poll(now_s), now_s)

    def join_model(self, runtime: Runtime) -> ModelStream:
        """Return this stream's place in the runtime, taken at the first call; call it where the runtime is called."""
        if self.model is None:
            self.model = ModelStream(runtime.open_slot())
            if self._restored is not None:
                runtime.load_slot(self.model.slot, self._restored.state)
                self.model.hops_seen, self.model.votes = self._restored.hops_seen, self._restored.votes
                self._restored = None
        return self.model

    def moment(self, now_ns: int) -> Moment | None:
        """Return where this stream stands at its newest sample, for the alerts.

        Before its first one that is where it was left, None if nothing is known of it.
        """
        position = self.assembler.position
        if position is None:
            return None if self.left_at is None else msgspec.structs.replace(self.left_at, now_ns=now_ns)
        index = max(0, position.expected - 1)
        time_ns = self.assembler.time_ns_of(index)
        return Moment(position.layout.session, index, position.rate_hz, time_ns, now_ns)

    def adopt(self, limits: AssemblerLimits, backlog_hops: int) -> None:
        """Follow changed limits from the next chunk on."""
        self.limits = self.assembler.limits = limits
        self.backlog_hops = backlog_hops

    def _take(self, runs: Sequence[Run], now_s: float) -> None:
        waited = len(self.waiting)
        for run in runs:
            self.changed = True
            if run.reset is not None:
                self.resets.append(run.reset)
                self._adopt_layout()
            if self._path is not None:
                self.waiting += (self._waiting(hop, now_s) for hop in self._path.push(run))
        if len(self.waiting) > self.backlog_hops:
            self._drop_oldest(min(len(self.waiting) - self.backlog_hops, waited))

    def _adopt_layout(self) -> None:
        """Build the path for the leads and rate that the stream has now."""
        assert self.assembler.position is not None
        layout = self.assembler.position.layout
        self.alerts.expect(layout.full_scale_mv)
        try:
            self._path = StreamPath(self.manifest, layout.rate_hz, layout.leads)
            self.unfit = None
        except (LeadsError, SignalError) as error:
            self._path = None
            self.unfit = error

    def _waiting(self, hop: Hop, now_s: float) -> WaitingHop:
        assert self.assembler.position is not None
        time_ns = self.assembler.time_ns_of(hop.last_index)
        return WaitingHop(hop, self.assembler.position.layout, now_s, time_ns)

    def _drop_oldest(self, hops: int) -> None:
        """Give up the oldest hops under overload; what comes after them starts afresh.

        Never hops that came just now: however long a device's chunks are, they are not what is too much.
        """
        if not hops:
            return
        for _ in range(hops):
            self.dropped_samples += len(self.waiting.popleft().hop.invalid)
        oldest = self.waiting[0]
        if oldest.hop.reset is None:
            self.resets.append(Reset.OVERLOAD)
            cut = msgspec.structs.replace(oldest.hop, reset=Reset.OVERLOAD)
            self.waiting[0] = msgspec.structs.replace(oldest, hop=cut)

    def snapshot(self, model_hash: str, now_ns: int) -> Snapshot | None:
        """Return what is needed to go on later, but for the state in the runtime (see `Snapshot.with_model`).

        None while hops wait or are with the runtime: the model's state would then stand elsewhere than the rest.
        """
        position = self.assembler.position
        if position is None or self._path is None or self.waiting or self.in_flight:
            return None
        arrays = {f"path.{name}": array for name, array in self._path.save().items()}
        if self._restored is not None:  # not scored since it was restored, so its state is not in the runtime yet
            arrays |= {f"{MODEL_PREFIX}{name}": array for name, array in self._restored.state.items()}
        counted = self.model or self._restored
        if counted is not None and counted.votes is not None:
            arrays[VOTES] = counted.votes
        return Snapshot(
            device=self.device,
            model_hash=model_hash,
            saved_at_ns=now_ns,
            layout=position.layout,
            expected=position.expected,
            time_index=position.time_index,
            time_ns=position.time_ns,
            past_sessions=list(self.assembler.past_sessions),
            held=[encode_msgpack(chunk) for chunk in self.assembler.held],
            chunk_s=self.chunk_s,
            hops_seen=0 if counted is None else counted.hops_seen,
            alerts=self.alerts.to_state(),
            arrays=pack(arrays | {"last_mv": position.hold.last_mv, "invalid_run": position.hold.absent}),
        )

    def remember(self, snapshot: Snapshot) -> None:
        """Take from a snapshot that cannot be gone on from where its stream stood, so that its silence is noticed."""
        self.chunk_s = snapshot.chunk_s
        layout, index = snapshot.layout, max(0, snapshot.expected - 1)
        position = Position(layout, snapshot.expected, Hold.of_nothing(0), snapshot.time_index, snapshot.time_ns)
        self.left_at = Moment(layout.session, index, layout.rate_hz, position.expected_ns(index), snapshot.saved_at_ns)

    def restore(self, snapshot: Snapshot, now_s: float) -> None:
        """Go on where a snapshot stands; raises StorageError, with nothing changed, when it does not fit this model."""
        try:
            arrays = unpack(snapshot.arrays)
            restored = self._restored_model(arrays, snapshot.hops_seen)
            held = [decode(payload) for payload in snapshot.held]
            path = StreamPath(self.manifest, snapshot.layout.rate_hz, snapshot.layout.leads)
            path.load(_with_prefix(arrays, "path."))
            if path.end != snapshot.expected:
                raise ValueError(f"its samples end at {path.end} and it expects {snapshot.expected}")
            position = Position(
                layout=snapshot.layout,
                expected=snapshot.expected,
                hold=_restored_hold(arrays, len(snapshot.layout.leads)),
                time_index=snapshot.time_index,
                time_ns=snapshot.time_ns,
            )
        except (ValueError, TypeError, LookupError, ArithmeticError, SignalError, PayloadError) as error:
            raise StorageError(f"the snapshot of {self.device} cannot be used: {error}") from None
        self.alerts.from_state(snapshot.alerts)
        self.alerts.expect(snapshot.layout.full_scale_mv)
        self._path, self.assembler.position = path, position
        self._restored = restored
        self.assembler.past_sessions.extend(snapshot.past_sessions)
        for chunk in held:
            self._take(self.assembler.push(chunk, now_s), now_s)

    def _restored_model(self, arrays: Arrays, hops_seen: int) -> RestoredModel | None:
        """Return a saved model, None before the first hop; raises ValueError when it is not of this bundle's.

        Without the votes that its score is the mean of, it has a window to warm up for before it can be relied on.
        """
        tensors = _with_prefix(arrays, MODEL_PREFIX)
        if not tensors:
            return None
        shapes = {tensor.name: tuple(tensor.shape) for tensor in self.manifest.state}
        if {name: array.shape for name, array in tensors.items()} != shapes:
            raise ValueError("the model's state has other tensors")
        state = {name: array.astype(np.float32) for name, array in tensors.items()}
        if self.manifest.votes == 1:
            return RestoredModel(state, hops_seen, None)
        if VOTES not in arrays:
            return RestoredModel(state, 0, None)
        votes = arrays[VOTES].astype(np.float32)
        expected = min(hops_seen, self.manifest.votes), len(self.manifest.classes)
        if votes.shape != expected or not np.isfinite(votes).all():
            raise ValueError(f"the votes have the shape {votes.shape} instead of {expected}, or are no numbers")
        return RestoredModel(state, hops_seen, votes)


def _restored_hold(arrays: Arrays, leads: int) -> Hold:
    last_mv, absent = arrays["last_mv"].astype(np.float64), arrays["invalid_run"].astype(np.int64)
    if not last_mv.shape == absent.shape == (leads,):
        raise ValueError("what its leads were last worth is of other leads")
    return Hold(last_mv, absent)


def _with_prefix(arrays: Arrays, prefix: str) -> dict[str, NDArray[np.generic]]:
    return {name[len(prefix) :]: array for name, array in arrays.items() if name.startswith(prefix)}
