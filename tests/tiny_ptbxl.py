"""A PTB-XL root in miniature: its layout, tables and headers, with synthetic beats in place of ECG."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import wfdb

from edge.signal.leads import STANDARD_LEADS
from trainer.filters import synthetic_beats

HEADER_NAMES = [name.replace("aV", "AV") for name in STANDARD_LEADS]
"""Lead names as PTB-XL's headers spell them."""

STATEMENTS = """,description,diagnostic,form,rhythm,diagnostic_class,diagnostic_subclass
NORM,normal ECG,1.0,,,NORM,NORM
IMI,inferior myocardial infarction,1.0,,,MI,IMI
NDT,non-diagnostic T abnormalities,1.0,1.0,,STTC,STTC
LAFB,left anterior fascicular block,1.0,,,CD,LAFB/LPFB
LVH,left ventricular hypertrophy,1.0,,,HYP,LVH
SR,sinus rhythm,,,1.0,,
ABQRS,abnormal QRS,,1.0,,,
"""
HEIGHT_OF = {"NORM": 1.0, "IMI": -1.0, "NDT": 0.3, "LAFB": 2.0, "LVH": 4.0, "SR": 1.0}
"""How high a code's synthetic beats are: something a model can learn."""


@dataclass(frozen=True)
class Row:
    """One record of the table."""

    ecg_id: int
    codes: str
    fold: int
    patient: int

    @property
    def name(self) -> str:
        """Path of the record below the root, without suffix."""
        return f"records100/{self.ecg_id // 1000 * 1000:05d}/{self.ecg_id:05d}_lr"


def rows_of(codes: list[str], folds: list[int]) -> list[Row]:
    """One record per fold and code, each a patient of its own, numbered from 1."""
    pairs = [(fold, code) for fold in folds for code in codes]
    return [Row(i, f"{{'{code}': 100.0}}", fold, 1000 + i) for i, (fold, code) in enumerate(pairs, 1)]


def write_ptbxl(root: Path, rows: list[Row], seed: int = 0) -> Path:
    """Write the tables and every record; return the root."""
    root.mkdir(parents=True, exist_ok=True)
    (root / "scp_statements.csv").write_text(STATEMENTS)
    (root / "LICENSE.txt").write_text("synthetic\n")
    columns = "ecg_id,patient_id,age,sex,scp_codes,strat_fold,filename_lr"
    lines = [
        f'{r.ecg_id},{r.patient}.0,{50 + r.ecg_id % 30}.0,{r.ecg_id % 2},"{r.codes}",{r.fold},{r.name}' for r in rows
    ]
    (root / "ptbxl_database.csv").write_text("\n".join([columns, *lines]) + "\n")
    rng = np.random.default_rng(seed)
    for row in rows:
        write_record(root, row, synthetic_record_uv(row, rng))
    return root


def synthetic_record_uv(row: Row, rng: np.random.Generator) -> np.ndarray:
    """Beats at a rate and height of their own on all twelve leads, with noise: (1000, 12) int16 microvolts."""
    height = next((HEIGHT_OF[code] for code in HEIGHT_OF if f"'{code}'" in row.codes), 1.0)
    beats = synthetic_beats(100, 10.0, period_s=float(rng.uniform(0.7, 1.1)))
    shares = np.linspace(0.5, 1.5, len(STANDARD_LEADS))
    noise = rng.normal(0, 0.02, (len(beats), len(shares)))
    return np.rint(1000 * (height * beats[:, None] * shares + noise)).astype(np.int16)


def write_record(root: Path, row: Row, samples_uv: np.ndarray, names: list[str] = HEADER_NAMES) -> None:
    """Write one record in format 16, 1000 units per millivolt, as PTB-XL does."""
    folder = (root / row.name).parent
    folder.mkdir(parents=True, exist_ok=True)
    leads = samples_uv.shape[1]
    wfdb.wrsamp(
        Path(row.name).name, 100, ["mV"] * leads, names, d_signal=samples_uv.astype(np.int64), fmt=["16"] * leads,
        adc_gain=[1000.0] * leads, baseline=[0] * leads, write_dir=str(folder),
    )  # fmt: skip
