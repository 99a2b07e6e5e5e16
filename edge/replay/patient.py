"""A simulated 12-lead patient whose rhythm and morphology change on a script. Always labelled as simulated.

The heart is a dipole: each wave of a beat is a Gaussian in time along a direction in space (after McSharry et al. 2003,
IEEE Trans. Biomed. Eng. 50:289, and its three-dimensional form by Sameni et al. 2007, EURASIP J. Adv. Signal Process.
43407). Dower's matrix (Dower et al. 1980, Clin. Cardiol. 3:87) projects it onto the leads; III, aVR, aVL and aVF follow
from I and II, so Einthoven's law holds exactly. It looks like an ECG; it is not one, and a model's scores on it say
nothing about its accuracy.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from edge.replay.records import Recording
from edge.signal.leads import STANDARD_LEADS

FloatArray = NDArray[np.float64]

# Rows I, II, V1 … V6; columns x (to the left), y (to the feet), z (to the back), in Frank's axes.
DOWER = np.array(
    [
        [0.632, -0.235, 0.059], [0.235, 1.066, -0.132], [-0.515, 0.157, -0.917], [0.044, 0.164, -1.387],
        [0.882, 0.098, -1.277], [1.213, 0.127, -0.601], [1.125, 0.127, -0.086], [0.831, 0.076, 0.230],
    ]
)  # fmt: skip

NOISE_MV = 0.006
WANDER_MV = 0.05
BREATHS_PER_S = 0.23


@dataclass(frozen=True)
class Wave:
    """One wave: when it peaks after R, how wide it is, how strong along x, y, z."""

    at_s: float
    width_s: float
    x_mv: float
    y_mv: float
    z_mv: float
    follows_rate: bool = False
    """Peaks later at a slower rate, by the square root of the RR interval (Bazett 1920)."""


@dataclass(frozen=True)
class Morphology:
    """The waves of a beat."""

    name: str
    waves: tuple[Wave, ...]


@dataclass(frozen=True)
class Episode:
    """A stretch of the script."""

    morphology: Morphology
    seconds: float
    beats_per_min: float = 70.0


_P = Wave(-0.165, 0.022, 0.05, 0.10, -0.02)
_SEPTUM = Wave(-0.028, 0.008, -0.12, -0.03, -0.18)
_MAIN = Wave(0.0, 0.011, 1.05, 0.75, 0.30)
_BASE = Wave(0.026, 0.010, -0.12, -0.08, 0.45)
_T = Wave(0.27, 0.050, 0.22, 0.16, -0.14, follows_rate=True)

SINUS = Morphology("sinus rhythm", (_P, _SEPTUM, _MAIN, _BASE, _T))
ANTERIOR_ST_ELEVATION = Morphology(
    "anterior ST elevation",
    (
        _P, Wave(-0.028, 0.009, -0.05, 0.0, 0.15), _MAIN, _BASE,
        Wave(0.11, 0.045, 0.12, -0.05, -0.24), Wave(0.26, 0.060, 0.24, 0.04, -0.30, follows_rate=True),
    ),
)  # fmt: skip
LEFT_BUNDLE_BRANCH_BLOCK = Morphology(
    "left bundle branch block",
    (
        _P, Wave(-0.020, 0.018, 0.45, 0.25, 0.35), Wave(0.030, 0.026, 0.80, 0.30, 0.75),
        Wave(0.075, 0.022, 0.45, 0.10, 0.35), Wave(0.30, 0.060, -0.25, -0.08, -0.30, follows_rate=True),
    ),
)  # fmt: skip
LEFT_VENTRICULAR_HYPERTROPHY = Morphology(
    "left ventricular hypertrophy",
    (
        _P, _SEPTUM, replace(_MAIN, x_mv=2.3, y_mv=0.9, z_mv=0.95, width_s=0.013), replace(_BASE, z_mv=1.0),
        Wave(0.12, 0.05, -0.10, -0.04, 0.10), Wave(0.28, 0.045, -0.25, -0.10, 0.22, follows_rate=True),
    ),
)  # fmt: skip

SCRIPT = (
    Episode(SINUS, 30.0),
    Episode(ANTERIOR_ST_ELEVATION, 30.0, beats_per_min=92.0),
    Episode(LEFT_BUNDLE_BRANCH_BLOCK, 30.0, beats_per_min=64.0),
    Episode(LEFT_VENTRICULAR_HYPERTROPHY, 30.0, beats_per_min=76.0),
)
"""What a simulated patient goes through, over and over."""


def simulate(seconds: float, rate_hz: int = 500, seed: int = 0, script: Sequence[Episode] = SCRIPT) -> Recording:
    """Return so many seconds of a simulated patient; the same seed gives the same ECG. The script repeats."""
    rng = np.random.default_rng(seed)
    time_s = np.arange(round(seconds * rate_hz)) / rate_hz
    heart_mv = np.zeros((len(time_s), 3))
    for at_s, interval_s, morphology in _beats(seconds, script, rng):
        _add_beat(heart_mv, time_s, rate_hz, at_s, interval_s, morphology)
    breathing = np.sin(2 * np.pi * BREATHS_PER_S * time_s + rng.uniform(0, 2 * np.pi))
    heart_mv *= 1 + 0.04 * breathing[:, None]
    independent = heart_mv @ DOWER.T  # (samples, 8)
    independent += WANDER_MV * breathing[:, None] * rng.uniform(-1, 1, 8)
    independent += NOISE_MV * rng.standard_normal(independent.shape)
    name = f"simulated patient {seed}"
    return Recording(name, rate_hz, STANDARD_LEADS, twelve_leads(independent), f"{name} (not real ECG)", simulated=True)


def twelve_leads(independent: FloatArray) -> FloatArray:
    """Complete I, II, V1 … V6, (samples, 8), to the twelve standard leads, (samples, 12)."""
    one, two = independent[:, 0], independent[:, 1]
    limbs = [one, two, two - one, -(one + two) / 2, one - two / 2, two - one / 2]
    return np.column_stack([*limbs, independent[:, 2:]])


def _beats(
    seconds: float, script: Sequence[Episode], rng: np.random.Generator
) -> list[tuple[float, float, Morphology]]:
    """Return (time of R, interval before it, morphology) of every beat, with respiratory and slow variability."""
    total_s = sum(episode.seconds for episode in script)
    beats, at_s = [], 0.3
    while at_s < seconds + 1.0:
        episode = _episode_at(at_s % total_s, script)
        variability = 0.025 * np.sin(2 * np.pi * BREATHS_PER_S * at_s) + 0.02 * np.sin(2 * np.pi * 0.1 * at_s)
        interval_s = 60.0 / episode.beats_per_min * (1 + variability + 0.01 * rng.standard_normal())
        beats.append((at_s, interval_s, episode.morphology))
        at_s += interval_s
    return beats


def _episode_at(at_s: float, script: Sequence[Episode]) -> Episode:
    for episode in script:
        at_s -= episode.seconds
        if at_s < 0:
            return episode
    return script[-1]


def _add_beat(
    heart_mv: FloatArray, time_s: FloatArray, rate_hz: int, at_s: float, interval_s: float, morphology: Morphology
) -> None:
    first, last = max(0, round((at_s - 0.5) * rate_hz)), max(0, round((at_s + 0.8) * rate_hz))
    around_s = time_s[first:last] - at_s
    for wave in morphology.waves:
        peak_s = wave.at_s * np.sqrt(interval_s) if wave.follows_rate else wave.at_s
        shape = np.exp(-0.5 * ((around_s - peak_s) / wave.width_s) ** 2)
        heart_mv[first:last] += shape[:, None] * (wave.x_mv, wave.y_mv, wave.z_mv)
