"""All streams of the daemon: bounded in number, the longest silent one makes room."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator

from edge.daemon.device_stream import DeviceStream, WaitingHop
from edge.errors import PayloadError

TOO_MANY_STREAMS = "too-many-streams"


class Registry:
    """Streams by device name, and the queue of those whose hops wait: who came first is scored first.

    Whoever gives a stream hops says so by `enqueue`, and whoever took it out of the queue by `release`, so that
    nothing ever looks through all streams for work.
    """

    def __init__(self, max_streams: int, silent_after_s: float, create: Callable[[str, float], DeviceStream]) -> None:
        self.max_streams = max_streams
        self.silent_after_s = silent_after_s
        self._create = create
        self._streams: dict[str, DeviceStream] = {}
        self.incomplete: set[DeviceStream] = set()
        """Streams that miss a chunk: see `note_missing`."""
        self._queue: deque[DeviceStream] = deque()

    def __len__(self) -> int:
        return len(self._streams)

    def __iter__(self) -> Iterator[DeviceStream]:
        return iter(tuple(self._streams.values()))

    def get(self, device: str) -> DeviceStream | None:
        """Return a device's stream if it is known."""
        return self._streams.get(device)

    def find_or_add(self, device: str, now_s: float) -> tuple[DeviceStream, DeviceStream | None]:
        """Return a device's stream, made if it is new, and the stream that had to make room for it, if any.

        Raises PayloadError when there is no room: as many streams as are allowed, and none of them silent.
        """
        stream = self._streams.get(device)
        if stream is not None:
            return stream, None
        evicted = self._make_room(now_s) if len(self._streams) >= self.max_streams else None
        stream = self._streams[device] = self._create(device, now_s)
        return stream, evicted

    def remove(self, device: str) -> DeviceStream | None:
        """Take a stream out."""
        stream = self._streams.pop(device, None)
        if stream is not None:
            self.incomplete.discard(stream)
        return stream

    def note_missing(self, stream: DeviceStream) -> None:
        """Take note of whether a stream misses a chunk: after chunks came, or were given up."""
        if stream.assembler.waits:
            self.incomplete.add(stream)
        else:
            self.incomplete.discard(stream)

    def enqueue(self, stream: DeviceStream) -> bool:
        """Let a stream wait for its turn if it has hops and is not in use; return whether it waits."""
        if stream.waiting and not stream.in_flight and not stream.queued:
            stream.queued = True
            self._queue.append(stream)
        return stream.queued

    def take_batch(self, max_batch: int) -> list[tuple[DeviceStream, WaitingHop]]:
        """Take the oldest waiting hop of up to so many streams, those that have waited longest first.

        The streams are in flight until they are released; one that was given up in the meantime is passed over.
        """
        batch: list[tuple[DeviceStream, WaitingHop]] = []
        while self._queue and len(batch) < max_batch:
            stream = self._queue.popleft()
            stream.queued = False
            if stream.waiting and not stream.in_flight and self._streams.get(stream.device) is stream:
                stream.in_flight = True
                batch.append((stream, stream.waiting.popleft()))
        return batch

    def release(self, streams: Iterable[DeviceStream]) -> None:
        """Say that streams are no longer in flight; those with more hops wait for their next turn."""
        for stream in streams:
            stream.in_flight = False
            self.enqueue(stream)

    def _make_room(self, now_s: float) -> DeviceStream:
        silent = [
            stream for stream in self._streams.values()
            if not stream.in_flight and now_s - stream.last_arrival_s >= stream.silent_after_s(self.silent_after_s)
        ]  # fmt: skip
        oldest = min(silent, key=lambda stream: stream.last_arrival_s, default=None)
        if oldest is None:
            raise PayloadError(TOO_MANY_STREAMS, f"{self.max_streams} streams are followed and none is silent")
        self.remove(oldest.device)
        return oldest
