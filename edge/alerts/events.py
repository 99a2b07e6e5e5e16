"""What an alert says, as data: one event per change of a condition, encoded as JSON (contract version 1)."""

from __future__ import annotations

import uuid
from enum import Enum
from typing import Literal

import msgspec

from edge.errors import PayloadError

NAMESPACE = uuid.UUID("3f0b6d52-6c1f-5c07-9d53-0a9d5f2f6b1e")
"""Of the identifiers of conditions; must never change."""

SECOND_NS = 1_000_000_000
HOUR_NS = 3600 * SECOND_NS


class State(str, Enum):
    """Where a condition is in its life."""

    RAISED = "raised"
    UPDATED = "updated"
    CLEARED = "cleared"


class Priority(str, Enum):
    """How soon somebody should look, in the words of IEC 60601-1-8."""

    HIGH = "high"
    MEDIUM = "medium"
    LOW = "low"


class Reason(str, Enum):
    """Why an event says what it says, where that is not the probability."""

    FROZEN = "frozen"
    """Updated: signal quality is bad or the stream is warming, so the condition stands as it was."""
    SESSION_ENDED = "session_ended"
    EVICTED = "evicted"
    """Cleared: the stream made room for another, or was given up."""
    NO_SIGNAL = "no_signal"
    """Cleared: nothing is known of a signal that does not come or can't be read."""
    NOT_WATCHED = "not_watched"
    """Cleared: the model or the policy in force no longer knows this condition."""


class Point(msgspec.Struct, frozen=True):
    """A moment of the stream: sample index in the session and UTC ns of that sample, if it is known."""

    i: int
    t: int | None = None


class Window(msgspec.Struct, frozen=True, rename={"first": "from", "last": "to"}):
    """The samples a decision rests on, both ends included."""

    first: int
    last: int


class Model(msgspec.Struct, frozen=True):
    """What computed the probability."""

    name: str
    hash: str
    runtime: str


class AlertEvent(msgspec.Struct, frozen=True, kw_only=True, rename={"class_name": "class"}):
    """One change of one condition. Times are UTC ns; a technical condition has no class, probability or threshold."""

    v: Literal[1] = 1
    id: str
    revision: int
    """0 when raised, one more with every event of this condition."""
    device: str
    session: str
    kind: Literal["class", "technical"]
    class_name: str | None = None
    code: str
    """Identifier of the condition: the class in small letters, or the technical code. Last level of the topic."""
    state: State
    priority: Priority
    probability: float | None = None
    threshold: float | None = None
    onset: Point
    at: Point
    latency_ms: float | None = None
    """From the arrival of the last sample to the decision."""
    quality: float | None = None
    window: Window | None = None
    model: Model | None = None
    node: str
    expires: int | None = None
    """When a receiver that heard no more may take the condition as over; null once it is cleared."""
    reason: Reason | None = None


class Moment(msgspec.Struct, frozen=True):
    """Where a stream stands when something is decided about it; durations are counted in its samples."""

    session: str
    index: int
    rate_hz: int
    time_ns: int | None
    """UTC of that sample, if it is known."""
    now_ns: int
    """UTC of the decision."""
    latency_ms: float | None = None

    @property
    def point(self) -> Point:
        """The moment as an event states it."""
        return Point(self.index, self.time_ns)

    @property
    def stream_s(self) -> float:
        """Seconds of signal since index 0."""
        return self.index / self.rate_hz


def condition_id(device: str, session: str, code: str, onset: Point) -> str:
    """Return the id of a condition, the same whenever it is computed.

    The time takes part because a device may start again at index 0 within a session.
    """
    return str(uuid.uuid5(NAMESPACE, f"{device}/{session}/{code}/{onset.i}/{onset.t}"))


def expiry_ns(now_ns: int, expires_s: float) -> int:
    """Return when an event of now expires."""
    return now_ns + round(expires_s * SECOND_NS)


def cleared(last: AlertEvent, at: Point, reason: Reason | None = None) -> AlertEvent:
    """Return the event that ends a condition, from the last one that was made of it."""
    return msgspec.structs.replace(
        last, revision=last.revision + 1, state=State.CLEARED, at=at, latency_ms=None, expires=None, reason=reason
    )


def encode(event: AlertEvent) -> bytes:
    """Write an event as JSON."""
    return _encoder.encode(event)


def decode(payload: bytes) -> AlertEvent:
    """Read an event; raises PayloadError."""
    try:
        return _decoder.decode(payload)
    except (msgspec.MsgspecError, ValueError) as error:  # bytes that are no text are a ValueError
        raise PayloadError("alert", str(error)) from None


_encoder = msgspec.json.Encoder()
_decoder = msgspec.json.Decoder(AlertEvent)
