"""How far a hop of raw ECG can be trusted: leads off, flat lines, clipping, noise, and limb leads that contradict.

Every hop is judged by itself, so the verdict does not depend on how samples were chunked or on what came before. A
pause in all leads (asystole) looks like a flat line: the report says what the signal is, not what the heart does.

The limits were set on PTB-XL folds 1-9 (19,601 records at 100 Hz, hops of 1 s). There 0.08 % of all hops are not good
and 0.4 % of the records have such a hop; of the 77 % that PTB-XL marks free of noise and drift, 0.05 % and 0.2 %.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from edge.signal.invalid import InvalidArray
from edge.signal.lead_quality import BoolArray, FloatArray, Issue, LeadFindings, LeadJudge, QualityLimits

__all__ = ["Issue", "QualityAssessor", "QualityLimits", "QualityReport"]

EINTHOVEN_SCORE = 0.5
"""What is left of the score when limb leads contradict: at least half of the twelve leads are then in doubt."""


@dataclass(frozen=True)
class QualityReport:
    """The verdict on one hop."""

    score: float
    """0 (nothing usable) to 1: share of sound samples, halved when the limb leads contradict."""
    issues: Issue
    """What is wrong with the hop as a whole; NONE when it can be used."""
    lead_issues: tuple[Issue, ...]
    """What is wrong with each lead, in the model's order."""

    @property
    def good(self) -> bool:
        """True when decisions may rest on this hop."""
        return self.issues is Issue.NONE


class QualityAssessor:
    """Judges hops of one stream: raw millivolts (samples, leads) at the model's rate, before the band-pass."""

    def __init__(
        self,
        leads: Sequence[str],
        rate_hz: int,
        full_scale_mv: tuple[float, float] | None = None,
        limits: QualityLimits | None = None,
    ) -> None:
        """`full_scale_mv` are the lowest and the highest value that the device can send, if it is known."""
        self.limits = limits or QualityLimits()
        self._judge = LeadJudge(leads, rate_hz, self.limits, full_scale_mv)
        self._sound = QualityReport(1.0, Issue.NONE, (Issue.NONE,) * len(leads))

    def assess(self, raw_mv: FloatArray, invalid: InvalidArray, lead_off: BoolArray | None = None) -> QualityReport:
        """Judge one hop.

        raw_mv: (samples, leads), at least 8 samples, where some are invalid the last valid one's. invalid: (any number
        of samples, leads), at the device's rate, its leads in the model's order: see `edge.signal.invalid`.
        lead_off: (leads,). A sample that is not finite counts as invalid.
        """
        findings = self._judge.judge(raw_mv, invalid, lead_off)
        return self._sound if findings is None else self._report(findings)

    def _report(self, findings: LeadFindings) -> QualityReport:
        codes = findings.codes
        issues = Issue.NONE
        for issue in (Issue.LEAD_OFF, Issue.MISSING, Issue.FLAT, Issue.SATURATED, Issue.NOISE):
            if np.count_nonzero(codes & issue) >= (self.limits.noisy_leads if issue is Issue.NOISE else 1):
                issues |= issue
        score = float(np.mean((codes == 0) * (1 - findings.invalid_shares)))
        if findings.contradiction:
            codes = np.where(self._judge.limb_leads, codes | Issue.EINTHOVEN, codes)
            issues |= Issue.EINTHOVEN
            score *= EINTHOVEN_SCORE
        return QualityReport(round(score, 3), issues, tuple(Issue(int(code)) for code in codes))


@lru_cache(maxsize=64)
def assessor_for(leads: tuple[str, ...], rate_hz: int, full_scale_mv: tuple[float, float] | None) -> QualityAssessor:
    """Return one assessor for all streams alike: it keeps nothing of what it has judged."""
    return QualityAssessor(leads, rate_hz, full_scale_mv)
