"""How far a hop of raw ECG can be trusted: leads off, flat lines, clipping, noise, and limb leads that contradict.

Every hop is judged by itself, so the verdict does not depend on how samples were chunked or on what came before. A
pause in all leads (asystole) looks like a flat line: the report says what the signal is, not what the heart does.

The limits were set on PTB-XL folds 1-9 (19,601 records at 100 Hz, hops of 1 s). There 0.24 % of all hops are not good
and 0.9 % of the records have such a hop; of the 77 % that PTB-XL marks free of noise and drift, 0.06 % and 0.3 %.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import IntFlag

import numpy as np
from numpy.typing import NDArray

FloatArray = NDArray[np.float64]
BoolArray = NDArray[np.bool_]

MAD_TO_SIGMA = 1.4826
"""Median absolute deviation to standard deviation of a Gaussian (Rousseeuw & Croux 1993)."""

SECOND_DIFFERENCE_GAIN = 6**0.5
"""White noise of deviation s has a second difference of deviation s·√(1² + 2² + 1²)."""

EINTHOVEN_SCORE = 0.5
"""What is left of the score when limb leads contradict: at least half of the twelve leads are then in doubt."""


class Issue(IntFlag):
    """What is wrong with a lead or with a hop."""

    NONE = 0
    LEAD_OFF = 1
    """The device says the electrode is off, or marks most of this lead's samples, but not of all leads', invalid."""
    MISSING = 2
    """Most samples of all leads are missing: a bridged gap."""
    FLAT = 4
    SATURATED = 8
    NOISE = 16
    EINTHOVEN = 32


@dataclass(frozen=True)
class QualityLimits:
    """Where good ends. Lengths in time, amplitudes in millivolts."""

    invalid_share: float = 0.5
    """A lead with at least this share of invalid samples is off, or missing when all leads are."""
    flat_mv: float = 0.010
    """A lead that stays within this range is flat: it happens in three records of PTB-XL, where a lead is dead."""
    plateau_s: float = 0.06
    plateau_mv: float = 0.002
    plateau_far_mv: float = 1.0
    """Clipping: 60 ms without a change of 2 µV, at least 1 mV off the lead's median (0.02 % of the hops)."""
    rail_share: float = 0.005
    """Clipping where the full scale is known: a sample within this share of it from an end."""
    noise_mv: float = 0.050
    """High-frequency noise, as a robust standard deviation (0.4 % of the hops have such a lead)."""
    drift_mv: float = 1.0
    """Baseline: move of the median from the first to the second half (0.5 % of the hops have such a lead)."""
    range_mv: float = 10.0
    """Peak to peak beyond the ±5 mV that an electrocardiograph must take (IEC 60601-2-25, input dynamic range)."""
    noisy_leads: int = 3
    """From so many noisy leads on the hop is noisy: a limb electrode disturbs at least three, a chest electrode one."""
    einthoven_mv: float = 0.050
    einthoven_share: float = 0.01
    """I + III = II and what follows from it may be missed by this much, plus this share of the limb leads' range."""


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
        return not self.issues


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
        self._full_scale_mv = full_scale_mv
        self._plateau_samples = max(2, round(self.limits.plateau_s * rate_hz))
        self._residuals = _limb_relations(leads)
        self._involved = (self._residuals != 0).any(axis=0)  # (leads,)
        self._sound = QualityReport(1.0, Issue.NONE, (Issue.NONE,) * len(leads))

    def assess(self, raw_mv: FloatArray, invalid: BoolArray, lead_off: BoolArray | None = None) -> QualityReport:
        """Judge one hop.

        raw_mv: (samples, leads), at least 8 samples. invalid: (any number of samples, leads), at the device's rate, its
        leads in the model's order. lead_off: (leads,). A sample that is not finite counts as invalid.
        """
        traces_mv = np.ascontiguousarray(raw_mv.T)  # (leads, samples)
        invalid_share = _invalid_share(traces_mv, invalid)
        lost = invalid_share >= self.limits.invalid_share
        off = lost if lead_off is None else lost | lead_off
        judged = (invalid_share == 0) & ~off
        if not judged.all():
            traces_mv = np.where(judged[:, None], traces_mv, 0.0)
        found = self._find(traces_mv, judged)
        if lost.all() and (lead_off is None or not lead_off.any()):
            found[Issue.MISSING] = lost
        else:
            found[Issue.LEAD_OFF] = off
        contradiction = self._contradicts(traces_mv, judged)
        if not contradiction and not invalid_share.any() and not any(leads.any() for leads in found.values()):
            return self._sound
        return self._report(found, invalid_share, contradiction)

    def _find(self, traces_mv: FloatArray, judged: BoolArray) -> dict[Issue, BoolArray]:
        """Return the leads (leads,) that each issue holds for."""
        limits = self.limits
        ordered_mv = np.sort(traces_mv, axis=1)
        lowest_mv, highest_mv = ordered_mv[:, 0], ordered_mv[:, -1]
        range_mv = highest_mv - lowest_mv
        median_mv = ordered_mv[:, ordered_mv.shape[1] // 2]
        saturated = self._has_far_plateau(traces_mv, median_mv)
        if self._full_scale_mv is not None:
            bottom_mv, top_mv = self._full_scale_mv
            margin_mv = limits.rail_share * (top_mv - bottom_mv)
            saturated |= (lowest_mv <= bottom_mv + margin_mv) | (highest_mv >= top_mv - margin_mv)
        half = traces_mv.shape[1] // 2
        drift_mv = np.abs(_median(traces_mv[:, :half]) - _median(traces_mv[:, half:]))
        noisy = (_noise_mv(traces_mv) > limits.noise_mv) | (drift_mv > limits.drift_mv) | (range_mv > limits.range_mv)
        return {
            Issue.FLAT: (range_mv <= limits.flat_mv) & judged & ~saturated,
            Issue.SATURATED: saturated & judged,
            Issue.NOISE: noisy & judged,
        }

    def _has_far_plateau(self, traces_mv: FloatArray, median_mv: FloatArray) -> BoolArray:
        """Tell for each lead whether it stands still far from its median: (leads, samples) → (leads,)."""
        far = np.abs(traces_mv - median_mv[:, None]) >= self.limits.plateau_far_mv
        if not far.any():
            return np.zeros(len(traces_mv), dtype=bool)
        still = (np.abs(np.diff(traces_mv, axis=1)) <= self.limits.plateau_mv) & far[:, 1:]
        steps = self._plateau_samples - 1
        run = still[:, : still.shape[1] - steps + 1]
        for shift in range(1, steps):
            run = run & still[:, shift : shift + run.shape[1]]
        return np.asarray(run.any(axis=1))

    def _contradicts(self, traces_mv: FloatArray, judged: BoolArray) -> bool:
        """Tell whether valid limb leads break Einthoven's law or Goldberger's definitions."""
        rows = self._residuals
        if not judged.all():
            rows = rows[~((rows != 0) & ~judged).any(axis=1)]
        if not len(rows):
            return False
        missed_mv = float(np.abs(rows @ traces_mv).max())
        if missed_mv <= self.limits.einthoven_mv:
            return False
        limb_mv = traces_mv[self._involved & judged]
        range_mv = float((limb_mv.max(axis=1) - limb_mv.min(axis=1)).max())
        return missed_mv > self.limits.einthoven_mv + self.limits.einthoven_share * range_mv

    def _report(self, found: dict[Issue, BoolArray], invalid_share: FloatArray, contradiction: bool) -> QualityReport:
        codes = sum(leads * int(issue) for issue, leads in found.items()) + np.zeros(len(invalid_share), dtype=int)
        issues = Issue.NONE
        for issue, leads in found.items():
            if leads.sum() >= (self.limits.noisy_leads if issue is Issue.NOISE else 1):
                issues |= issue
        score = float(np.mean((codes == 0) * (1 - invalid_share)))
        if contradiction:
            codes[self._involved] |= int(Issue.EINTHOVEN)
            issues |= Issue.EINTHOVEN
            score *= EINTHOVEN_SCORE
        return QualityReport(round(score, 3), issues, tuple(Issue(int(code)) for code in codes))


def _limb_relations(leads: Sequence[str]) -> FloatArray:
    """Return (relations, leads): each row times the leads is zero in a consistent ECG, scaled to the derived lead.

    II = I + III (Einthoven 1912); aVR = -(I + II)/2, aVL = (I - III)/2, aVF = (II + III)/2 (Goldberger 1942).
    """
    relations = (
        {"I": 1.0, "III": 1.0, "II": -1.0},
        {"aVR": 1.0, "I": 0.5, "II": 0.5},
        {"aVL": 1.0, "I": -0.5, "III": 0.5},
        {"aVF": 1.0, "II": -0.5, "III": -0.5},
    )
    known = [relation for relation in relations if relation.keys() <= set(leads)]
    rows = [[relation.get(lead, 0.0) for lead in leads] for relation in known]
    return np.array(rows, dtype=np.float64).reshape(len(known), len(leads))


def _invalid_share(traces_mv: FloatArray, invalid: BoolArray) -> FloatArray:
    """Return the share of invalid or non-finite samples of each lead, (leads,)."""
    share = invalid.mean(axis=0) if invalid.any() else np.zeros(len(traces_mv))
    if np.isfinite(traces_mv.sum()):
        return share
    return np.asarray(np.maximum(share, 1 - np.isfinite(traces_mv).mean(axis=1)))


def _noise_mv(traces_mv: FloatArray) -> FloatArray:
    """Return the robust deviation of each lead's high-frequency noise; waves of the heart hardly count in a median."""
    second = np.abs(traces_mv[:, 2:] - 2 * traces_mv[:, 1:-1] + traces_mv[:, :-2])
    return _median(second) * (MAD_TO_SIGMA / SECOND_DIFFERENCE_GAIN)


def _median(values: FloatArray) -> FloatArray:
    """Return the upper median of each row; `np.median` spends more time on its checks than on the sorting."""
    middle = values.shape[1] // 2
    return np.asarray(np.partition(values, middle, axis=1)[:, middle])
