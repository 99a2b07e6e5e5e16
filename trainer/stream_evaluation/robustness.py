"""Records made worse, as a device would meet them, and what the model then says at their last second.

Every record starts cold and is disturbed throughout, except by a gap. Noise is added at a ratio of powers, lead by
lead: the variance of the lead over the record to that of the noise. (The `nst` program of the noise stress test
database takes the QRS amplitude instead; for one and the same decibel its noise is another.) Lost leads are random
ones of the twelve, marked invalid as a device marks them, so the signal path holds their last value: none, here. A gap
is chunks that never arrive, which the assembler bridges. Hum is added at 250 Hz, since 100 samples per second hold no
60 Hz, and resampled as any device's signal is.

The same seed disturbs a record in the same way at every level.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from edge.alerts.policy import AlertPolicy
from edge.monitor.offline import hops_of
from edge.monitor.path import Hop, StreamPath
from edge.replay.device import chunks_of
from edge.replay.perturb import resampled, with_gain, with_lead_off, with_mains, with_noise, with_outage
from edge.replay.records import Recording, read_recording
from edge.runtime.base import Runtime
from edge.runtime.manifest import Manifest
from edge.signal.leads import STANDARD_LEADS
from edge.signal.quality import QualityAssessor
from edge.stream.assembler import Assembler
from edge.stream.runs import Run
from trainer.data import records_mv
from trainer.ptbxl import RATE_HZ, PtbXl
from trainer.streams.play import BATCH_STREAMS, RECORD_S, OnProgress, OpenStreams, advance, nobody

BoolArray = NDArray[np.bool_]
Float32Array = NDArray[np.float32]
Rows = NDArray[np.int64]
Perturb = Callable[[Recording, int], Recording]
"""A recording and a seed in, a recording out."""

NOISES = {"bw": "baseline wander", "em": "electrode motion", "ma": "muscle noise"}
SNRS_DB = (24.0, 18.0, 12.0, 6.0, 0.0)
LOST_LEADS = (1, 2, 3, 4, 5, 6)
GAPS_S = (0.5, 1.0, 2.0)
GAP_START_S = 5.0
GAINS = (0.5, 2.0)
MAINS_HZ = (50.0, 60.0)
MAINS_MV = 0.2
MAINS_RATE_HZ = 250
CHUNK_S = 0.5


@dataclass(frozen=True)
class Condition:
    """One way and degree of making records worse."""

    name: str
    level: float
    unit: str
    perturb: Perturb = lambda recording, _: recording
    gap_s: float = 0.0

    def hops(self, manifest: Manifest, recording: Recording, seed: int) -> list[Hop]:
        """Return a disturbed recording as the hops a device's stream would make."""
        disturbed = self.perturb(recording, seed)
        if not self.gap_s:
            return hops_of(manifest, disturbed.samples_mv, disturbed.rate_hz, disturbed.leads)
        path = StreamPath(manifest, disturbed.rate_hz, disturbed.leads)
        return [hop for run in _assembled(disturbed, self.gap_s) for hop in path.push(run)]


CLEAN = Condition("clean", 0.0, "")


@dataclass(frozen=True)
class Scored:
    """What the model says of records under one condition."""

    logits: Float32Array  # (records, classes) at the last hop
    decided: BoolArray  # (records,) class alerts would be decided there; else they are frozen


def conditions(nstdb: Path | None, quick: bool = False) -> list[Condition]:
    """Return what to try, the undisturbed records first; noise only where its recordings are given.

    Raises RecordError when one of them cannot be read.
    """
    found = [CLEAN]
    for name, words in NOISES.items() if nstdb is not None else ():
        assert nstdb is not None
        noise = resampled(read_recording(nstdb / name), RATE_HZ)
        found += [Condition(words, snr_db, "dB", _noisy(noise, snr_db)) for snr_db in SNRS_DB]
    found += [Condition("leads lost", count, "leads", _lead_off(count)) for count in LOST_LEADS]
    found += [Condition("gap", gap_s, "s", gap_s=gap_s) for gap_s in GAPS_S]
    found += [Condition("gain", gain, "×", _gained(gain)) for gain in GAINS]
    found += [Condition("mains hum", hz, f"Hz, {MAINS_MV:g} mV", _hummed(hz)) for hz in (0.0, *MAINS_HZ)]
    return [*found[:1], *found[1::3]] if quick else found


def score_under(
    condition: Condition, runtime: Runtime, data: PtbXl, rows: Rows, policy: AlertPolicy,
    on_progress: OnProgress = nobody,
) -> Scored:  # fmt: skip
    """Score records under a condition, each from a cold start."""
    manifest = runtime.bundle.manifest
    assessor = QualityAssessor(manifest.leads, manifest.signal.rate_hz)
    logits, decided = [], []
    for start in range(0, len(rows), BATCH_STREAMS):
        block = rows[start : start + BATCH_STREAMS]
        hops = [condition.hops(manifest, *named) for named in _recordings(data, block)]
        with OpenStreams(runtime) as opened:
            logits.append(advance(runtime, [opened.model() for _ in hops], hops).logits[:, -1])
        decided += [_is_decided(assessor, of_record, policy) for of_record in hops]
        on_progress(len(block))
    return Scored(np.concatenate(logits), np.array(decided))


def _recordings(data: PtbXl, rows: Rows) -> Iterator[tuple[Recording, int]]:
    """Give records with a seed each."""
    for ecg_id, samples_mv in zip(data.ecg_ids[rows].tolist(), records_mv(data, rows), strict=True):
        yield Recording(str(ecg_id), RATE_HZ, STANDARD_LEADS, samples_mv, "PTB-XL"), ecg_id


def _is_decided(assessor: QualityAssessor, hops: Sequence[Hop], policy: AlertPolicy) -> bool:
    good = [assessor.assess(hop.raw_mv, hop.invalid).good for hop in hops[-policy.window_hops :]]
    return good[-1] and good.count(False) <= policy.max_bad_share * policy.window_hops


def _assembled(recording: Recording, gap_s: float) -> list[Run]:
    """Send a recording in chunks through an outage to the assembler; return what it makes of them."""
    assembler, runs = Assembler(), []
    for departure in with_outage(chunks_of([recording], "s", CHUNK_S), GAP_START_S, gap_s):
        runs += assembler.push(departure.chunk, departure.taken_s)
        runs += assembler.poll(departure.taken_s)
    return runs + assembler.poll(2 * RECORD_S)


def _noisy(noise: Recording, snr_db: float) -> Perturb:
    return lambda recording, seed: with_noise(recording, noise, snr_db, seed)


def _lead_off(count: int) -> Perturb:
    def perturb(recording: Recording, seed: int) -> Recording:
        order = np.random.default_rng(seed).permutation(len(recording.leads))
        return with_lead_off(recording, [recording.leads[k] for k in order[:count]])

    return perturb


def _gained(factor: float) -> Perturb:
    return lambda recording, _: with_gain(recording, factor)


def _hummed(mains_hz: float) -> Perturb:
    """Return hum at a device's rate; at 0 Hz that rate alone, for hum to be compared with."""

    def perturb(recording: Recording, seed: int) -> Recording:
        device = resampled(recording, MAINS_RATE_HZ)
        return with_mains(device, mains_hz, MAINS_MV, seed) if mains_hz else device

    return perturb
