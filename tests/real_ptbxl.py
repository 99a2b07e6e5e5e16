"""A root with a few records of a real PTB-XL."""

from __future__ import annotations

from pathlib import Path

import pandas as pd

TABLES = ("ptbxl_database.csv", "scp_statements.csv")


def part_of_ptbxl(ptbxl_root: Path, root: Path, per_fold: dict[int, int]) -> Path:
    """Link the first stored records of some folds, fold → how many, into a root of their own."""
    table = pd.read_csv(ptbxl_root / TABLES[0], usecols=["strat_fold", "filename_lr"])
    names: list[str] = []
    for fold, count in per_fold.items():
        of_fold = table.loc[table["strat_fold"] == fold, "filename_lr"]
        names += [name for name in of_fold[: 4 * count] if (ptbxl_root / f"{name}.hea").is_file()][:count]
    for name in [*TABLES, *(f"{name}{end}" for name in names for end in (".hea", ".dat"))]:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).symlink_to(ptbxl_root / name)
    return root
