"""What is wrong with each lead of a hop, measured: in C where it was built, else in NumPy with the same verdict."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import IntFlag
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from edge.signal import kernel
from edge.signal.invalid import MISSING, InvalidArray

FloatArray = NDArray[np.float64]
BoolArray = NDArray[np.bool_]
CodeArray = NDArray[np.int32]

MAD_TO_SIGMA = 1.4826
"""Median absolute deviation to standard deviation of a Gaussian (Rousseeuw & Croux 1993)."""

NOISE_TAPS = (0.5, -0.5, -0.5, 0.5)
"""What is taken for noise: white noise keeps its deviation, a baseline goes, and so does what stands at half the rate,
where 50 Hz hum ends up at 100 Hz, because the band-pass takes that away before the model sees it."""
MIN_HOP_SAMPLES = 8


class Issue(IntFlag):
    """What is wrong with a lead or with a hop."""

    NONE = 0
    LEAD_OFF = 1
    """The device says the electrode is off, or marks most of this lead's samples invalid."""
    MISSING = 2
    """A good part of the samples never came: a bridged gap."""
    FLAT = 4
    SATURATED = 8
    NOISE = 16
    EINTHOVEN = 32


@dataclass(frozen=True)
class QualityLimits:
    """Where good ends. Lengths in time, amplitudes in millivolts."""

    invalid_share: float = 0.5
    """A lead with at least this share of invalid samples is off."""
    missing_share: float = 0.2
    """A hop with at least this share of samples that never came has a gap."""
    flat_mv: float = 0.010
    """A lead that stays within this range is flat: it happens in three records of PTB-XL, where a lead is dead."""
    plateau_s: float = 0.06
    plateau_mv: float = 0.002
    plateau_far_mv: float = 1.0
    """Clipping: 60 ms without a change of 2 µV, at least 1 mV off the lead's median (0.02 % of the hops)."""
    rail_share: float = 0.005
    """Clipping where the full scale is known: a sample within this share of it from an end."""
    noise_mv: float = 0.100
    """High-frequency noise, as a robust standard deviation (0.06 % of the hops have such a lead)."""
    drift_mv: float = 1.0
    """Baseline: move of the median from the first to the second half (0.5 % of the hops have such a lead)."""
    range_mv: float = 10.0
    """Peak to peak beyond the ±5 mV that an electrocardiograph must take (IEC 60601-2-25, input dynamic range)."""
    noisy_leads: int = 3
    """From so many noisy leads on the hop is noisy: a limb electrode disturbs at least three, a chest electrode one."""
    einthoven_mv: float = 0.050
    einthoven_share: float = 0.01
    """I + III = II and what follows from it may be missed by this much, plus this share of the limb leads' range."""


class LeadFindings(NamedTuple):
    """What was found in one hop."""

    codes: CodeArray  # (leads,) the issues of each lead, but for EINTHOVEN
    invalid_shares: FloatArray  # (leads,) invalid samples, by the device or because they are not finite
    contradiction: bool
    """Whether limb leads whose samples are all valid break Einthoven's law or Goldberger's definitions.

    Of others it cannot be told: a value held for one sample of a QRS complex breaks it as swapped electrodes do.
    """


class LeadJudge:
    """Judges the leads of one device's hops. `full_scale_mv` is the range its samples can state, if that is known."""

    def __init__(
        self, leads: Sequence[str], rate_hz: int, limits: QualityLimits, full_scale_mv: tuple[float, float] | None
    ) -> None:
        bottom_mv, top_mv = (-np.inf, np.inf)
        if full_scale_mv is not None:
            margin_mv = limits.rail_share * (full_scale_mv[1] - full_scale_mv[0])
            bottom_mv, top_mv = full_scale_mv[0] + margin_mv, full_scale_mv[1] - margin_mv
        self.limits = limits
        self.rails_mv = bottom_mv, top_mv
        self.plateau_samples = max(2, round(limits.plateau_s * rate_hz))
        self.relations = limb_relations(leads)
        self.limb_leads: BoolArray = (self.relations != 0).any(axis=0)  # (leads,)
        self._none_off = np.zeros(len(leads), dtype=bool)
        self._packed = np.array(
            [limits.invalid_share, limits.missing_share, limits.flat_mv, limits.plateau_mv, limits.plateau_far_mv,
             bottom_mv, top_mv, limits.noise_mv, MAD_TO_SIGMA, limits.drift_mv, limits.range_mv, limits.einthoven_mv,
             limits.einthoven_share, self.plateau_samples]
        )  # fmt: skip

    def judge(self, raw_mv: FloatArray, invalid: InvalidArray, lead_off: BoolArray | None) -> LeadFindings | None:
        """Return what is wrong with a hop, None when nothing is.

        raw_mv: (samples, leads), at least 8 samples, where some are invalid the last valid one's. invalid: (any number
        of samples, leads), at the device's rate: see `edge.signal.invalid`. lead_off: (leads,).
        """
        count, leads = raw_mv.shape
        if count < MIN_HOP_SAMPLES:
            raise ValueError(f"a hop of {count} samples is too short to be judged")
        off = self._none_off if lead_off is None else lead_off
        library = kernel.library_for(leads)
        if library is None:
            return self.judge_numpy(raw_mv, invalid, off)
        codes, shares = np.empty(leads, dtype=np.int32), np.empty(leads)
        verdict = library.judge(
            np.ascontiguousarray(raw_mv), np.ascontiguousarray(invalid), off, self._packed, self.relations,
            codes, shares, count, len(invalid), leads, len(self.relations),
        )  # fmt: skip
        return LeadFindings(codes, shares, verdict == 2) if verdict else None

    def judge_numpy(self, raw_mv: FloatArray, invalid: InvalidArray, lead_off: BoolArray) -> LeadFindings | None:
        """Do what `judge` does, without the kernel."""
        traces_mv = np.ascontiguousarray(raw_mv.T)  # (leads, samples)
        finite = np.isfinite(traces_mv)
        marked, missing = _shares(invalid, len(traces_mv))
        shares = np.maximum(marked, 1 - finite.mean(axis=1))
        has_gap = bool((missing >= self.limits.missing_share).all())
        received = shares - missing if has_gap else shares
        codes = np.where((received >= self.limits.invalid_share) | lead_off, Issue.LEAD_OFF, Issue.NONE).astype(
            np.int32
        )
        if has_gap:
            codes |= Issue.MISSING
        judged = (codes == 0) & finite.all(axis=1)
        traces_mv[~judged] = 0.0
        codes[judged] = self._faults(traces_mv)[judged]
        contradiction = self._contradicts(traces_mv, judged & (shares == 0))
        wrong = contradiction or codes.any() or shares.any()
        return LeadFindings(codes, shares, contradiction) if wrong else None

    def _faults(self, traces_mv: FloatArray) -> CodeArray:
        """Return what is wrong with the traces of leads, (leads, samples)."""
        limits = self.limits
        lowest_mv, highest_mv = traces_mv.min(axis=1), traces_mv.max(axis=1)
        range_mv = highest_mv - lowest_mv
        half = traces_mv.shape[1] // 2
        drift_mv = np.abs(_median(traces_mv[:, :half]) - _median(traces_mv[:, half:]))
        saturated = (lowest_mv <= self.rails_mv[0]) | (highest_mv >= self.rails_mv[1]) | self._far_plateau(traces_mv)
        noisy = (_noise_mv(traces_mv) > limits.noise_mv) | (drift_mv > limits.drift_mv) | (range_mv > limits.range_mv)
        flat = (range_mv <= limits.flat_mv) & ~saturated
        codes: CodeArray = flat * np.int32(Issue.FLAT)
        codes |= saturated * np.int32(Issue.SATURATED)
        codes |= noisy * np.int32(Issue.NOISE)
        return codes

    def _far_plateau(self, traces_mv: FloatArray) -> BoolArray:
        """Tell for each lead whether it stands still far from its median: (leads, samples) → (leads,)."""
        far = np.abs(traces_mv - _median(traces_mv)[:, None]) >= self.limits.plateau_far_mv
        still = (np.abs(np.diff(traces_mv, axis=1)) <= self.limits.plateau_mv) & far[:, 1:]
        steps = self.plateau_samples - 1
        run = still[:, : still.shape[1] - steps + 1]
        for shift in range(1, steps):
            run = run & still[:, shift : shift + run.shape[1]]
        return np.asarray(run.any(axis=1))

    def _contradicts(self, traces_mv: FloatArray, judged: BoolArray) -> bool:
        rows = self.relations[~((self.relations != 0) & ~judged).any(axis=1)]
        if not len(rows):
            return False
        missed_mv = float(np.abs(rows @ traces_mv).max())
        if missed_mv <= self.limits.einthoven_mv:
            return False
        range_mv = float(np.ptp(traces_mv[self.limb_leads & judged], axis=1).max())
        return missed_mv > self.limits.einthoven_mv + self.limits.einthoven_share * range_mv


def limb_relations(leads: Sequence[str]) -> FloatArray:
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


def _shares(invalid: InvalidArray, leads: int) -> tuple[FloatArray, FloatArray]:
    """Return which shares of each lead's samples are invalid, missing ones included, and missing: (leads,) each."""
    if not invalid.any():
        return np.zeros(leads), np.zeros(leads)
    return (invalid != 0).mean(axis=0), (invalid == MISSING).mean(axis=0)


def _noise_mv(traces_mv: FloatArray) -> FloatArray:
    """Return the robust deviation of each lead's high-frequency noise; waves of the heart hardly count in a median."""
    past = (traces_mv[:, 3 - k : traces_mv.shape[1] - k] for k in range(4))
    noise = sum(tap * trace for tap, trace in zip(NOISE_TAPS, past, strict=True))
    return _median(np.abs(noise)) * MAD_TO_SIGMA


def _median(values: FloatArray) -> FloatArray:
    """Return the upper median of each row; `np.median` spends more time on its checks than on the sorting."""
    middle = values.shape[1] // 2
    return np.asarray(np.partition(values, middle, axis=1)[:, middle])
