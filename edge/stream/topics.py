"""The topics of MQTT contract version 1 and the identifiers in them."""

from __future__ import annotations

import re
from functools import lru_cache

from edge.errors import TopicError

ROOT = "ecg/v1"
RESERVED_DEVICES = frozenset({"edge", "dead"})
WAVE_FILTER = f"{ROOT}/+/wave"
DEVICE_STATUS_FILTER = f"{ROOT}/+/status"

KNOWN_TOPICS = 1 << 14
"""Topics whose device, and identifiers whose form, is remembered: the same ones come all the time."""

_IDENTIFIER = re.compile(r"[a-z0-9_-]{1,64}")


@lru_cache(maxsize=KNOWN_TOPICS)
def check_identifier(text: str, what: str = "identifier") -> str:
    """Return the text if it is an identifier of the contract, else raise TopicError."""
    if not _IDENTIFIER.fullmatch(text):
        raise TopicError(f"{what} {text[:80]!r} must match [a-z0-9_-]{{1,64}}")
    return text


@lru_cache(maxsize=KNOWN_TOPICS)
def device_of(topic: str, kind: str) -> str:
    """Return the device of a topic `ecg/v1/<device>/<kind>`; raises TopicError for any other topic."""
    parts = topic.split("/")
    if len(parts) != 4 or "/".join(parts[:2]) != ROOT or parts[3] != kind:
        raise TopicError(f"topic {topic[:120]!r} is not {ROOT}/<device>/{kind}")
    if parts[2] in RESERVED_DEVICES:
        raise TopicError(f"device name {parts[2]!r} is reserved")
    return check_identifier(parts[2], "device")


def info_topic(device: str) -> str:
    """Retained stream descriptor."""
    return _device_topic(device, "info")


def wave_topic(device: str) -> str:
    """Chunks of samples."""
    return _device_topic(device, "wave")


def status_topic(device: str) -> str:
    """Retained device status, its will."""
    return _device_topic(device, "status")


def score_topic(device: str) -> str:
    """Probabilities per hop."""
    return _device_topic(device, "score")


def alert_topic(device: str, code: str | None = None) -> str:
    """The log of changes, or with a code the retained condition of that code."""
    return _device_topic(device, "alert" if code is None else f"alert/{check_identifier(code.lower(), 'code')}")


def node_status_topic(node: str) -> str:
    """Retained status of the daemon, its will."""
    return f"{ROOT}/edge/{check_identifier(node, 'node')}/status"


def node_health_topic(node: str) -> str:
    """Retained health of the daemon."""
    return f"{ROOT}/edge/{check_identifier(node, 'node')}/health"


def dead_topic(node: str) -> str:
    """Reports of refused payloads."""
    return f"{ROOT}/dead/{check_identifier(node, 'node')}"


def _device_topic(device: str, tail: str) -> str:
    return f"{ROOT}/{check_identifier(device, 'device')}/{tail}"
