"""Reports of payloads that could not be used: counted always, published at a bounded rate."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

import msgspec

from edge.errors import EcgEdgeError, PayloadError, TopicError

REPORTS_PER_S = 50.0
BURST = 500.0
MAX_TEXT = 200


@dataclass
class DeadLetters:
    """Turns a refused message into a report, unless too many were reported just now (token bucket)."""

    tokens: float = BURST
    filled_at_s: float = 0.0
    suppressed: int = 0

    def report(self, topic: str, payload: bytes, error: EcgEdgeError, now_s: float) -> bytes | None:
        """Return the report as JSON, or None when it is held back; the next one then says how many were."""
        self.tokens = min(BURST, self.tokens + (now_s - self.filled_at_s) * REPORTS_PER_S)
        self.filled_at_s = now_s
        if self.tokens < 1:
            self.suppressed += 1
            return None
        self.tokens -= 1
        suppressed, self.suppressed = self.suppressed, 0
        return msgspec.json.encode(
            {
                "v": 1,
                "reason": reason_of(error),
                "detail": str(error)[:MAX_TEXT],
                "topic": topic[:MAX_TEXT],
                "bytes": len(payload),
                "sha256": hashlib.sha256(payload).hexdigest(),
                "suppressed": suppressed,
            }
        )


def reason_of(error: EcgEdgeError) -> str:
    """Return one word for counting."""
    if isinstance(error, PayloadError):
        return error.reason
    return "topic" if isinstance(error, TopicError) else "other"
