"""From PTB-XL to what a model trains on: filtered by the very functions that serve, scaled by the training folds."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.signal import sosfiltfilt

from edge.runtime.manifest import SignalSpec
from edge.signal.bandpass import CausalBandpass
from edge.signal.frontend import FrontendSpec, process_records
from trainer.filters import design_bandpass
from trainer.preset import SignalPreset
from trainer.ptbxl import CLASSES, RATE_HZ, PtbXl

Float32Array = NDArray[np.float32]
Rows = NDArray[np.int64]

BATCH_RECORDS = 512
PASS_ALL = np.array([[1.0, 0.0, 0.0, 1.0, 0.0, 0.0]])


@dataclass(frozen=True)
class Split:
    """The records of some folds as model input."""

    signals: Float32Array  # (records, samples, leads) filtered and normalised
    labels: Float32Array  # (records, classes)
    targets: Float32Array | None = None  # (records, outputs) what training aims at where that is not the labels
    classes: tuple[str, ...] = CLASSES  # what the columns of the labels are
    ecg_ids: NDArray[np.int64] | None = None  # (records,) which records they are, where that is known

    def __len__(self) -> int:
        return len(self.signals)

    @property
    def aims(self) -> Float32Array:
        """What training aims at (records, outputs)."""
        return self.labels if self.targets is None else self.targets

    def chosen(self, rows: NDArray[np.bool_]) -> Split:
        """Return the split of some of its records."""
        targets = None if self.targets is None else self.targets[rows]
        ecg_ids = None if self.ecg_ids is None else self.ecg_ids[rows]
        return Split(self.signals[rows], self.labels[rows], targets, self.classes, ecg_ids)


def fit_signal(data: PtbXl, rows: Rows, preset: SignalPreset) -> SignalSpec:
    """Design the band-pass and measure the normalisation on these records."""
    sos = PASS_ALL
    if preset.filter != "none":
        sos = design_bandpass(RATE_HZ, preset.band_hz, preset.high_pass_order, preset.low_pass_order)
    leads = data.signals_uv.shape[2]
    total, squares, count = np.zeros(leads), np.zeros(leads), 0
    for batch in _in_batches(rows):
        filtered = CausalBandpass(sos).process(records_mv(data, batch))
        total += filtered.sum((0, 1))
        squares += (filtered**2).sum((0, 1))
        count += filtered.shape[0] * filtered.shape[1]
    mean_mv, std_mv = total / count, np.sqrt(squares / count - (total / count) ** 2)
    if preset.normalise == "global":
        mean_mv, std_mv = np.zeros(leads), np.full(leads, np.sqrt(squares.sum() / (count * leads)))
    return SignalSpec(
        rate_hz=RATE_HZ,
        band_hz=preset.band_hz,
        sos=[tuple(section) for section in sos.tolist()],
        mean_mv=mean_mv.tolist(),
        std_mv=std_mv.tolist(),
    )


def load_split(data: PtbXl, rows: Rows, spec: FrontendSpec, zero_phase: bool = False) -> Split:
    """Run whole records through the front-end, each from its own cold start; for studies also back again."""
    signals = np.empty((len(rows), *data.signals_uv.shape[1:]), dtype=np.float32)
    done = 0
    for batch in _in_batches(rows):
        process = zero_phase_records if zero_phase else process_records
        signals[done : done + len(batch)] = process(spec, records_mv(data, batch))
        done += len(batch)
    return Split(signals, data.labels[rows], classes=data.classes, ecg_ids=data.ecg_ids[rows])


def zero_phase_records(spec: FrontendSpec, samples_mv: NDArray[np.float64]) -> NDArray[np.float64]:
    """Filter records (records, samples, leads) forwards and backwards and normalise them: what no stream can do."""
    return (sosfiltfilt(spec.sos, samples_mv, axis=1) - spec.mean_mv) / spec.std_mv


def prepared(
    data: PtbXl, train_rows: Rows, other_rows: Sequence[Rows], preset: SignalPreset
) -> tuple[SignalSpec, Split, list[Split]]:
    """Fit the front-end on the training records; return it, them and other records behind it."""
    signal = fit_signal(data, train_rows, preset)
    zero_phase = preset.filter == "zero_phase"
    train, *others = (load_split(data, rows, signal.frontend(), zero_phase) for rows in (train_rows, *other_rows))
    return signal, train, others


def records_mv(data: PtbXl, rows: Rows) -> NDArray[np.float64]:
    """Return records in millivolts, (records, samples, leads)."""
    return data.signals_uv[rows].astype(np.float64) / 1000.0


def _in_batches(rows: Rows) -> list[Rows]:
    return [rows[start : start + BATCH_RECORDS] for start in range(0, len(rows), BATCH_RECORDS)]
