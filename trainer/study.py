"""Studies: one recipe and variants of it, trained alike with several seeds, in one table.

A study is a TOML file. Every variant names what it changes, as `section.key`:

    title = "What each part of the recipe gives"
    base = "streaming"
    seeds = [0, 1, 2]
    epochs = 12

    [variants."no carried state"]
    training.carried_share = 0.0

    [variants."started from SimCLR"]
    start = "simclr"

What starts from a method of learning without labels shares one pre-training, by the base preset's plan, over all seeds.
"""

from __future__ import annotations

import hashlib
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import msgspec
import numpy as np
import torch
from numpy.typing import NDArray

from edge.errors import ConfigError
from trainer.checkpoint import load_checkpoint
from trainer.data import Split, prepared
from trainer.filters import st_shift_uv
from trainer.history import Epoch
from trainer.kinds import describe_config, model_config
from trainer.model import EcgMamba
from trainer.one_label import each_by_itself
from trainer.preset import Preset, SignalPreset, TrainingPreset, refuse_faults
from trainer.pretraining.plans import Plans
from trainer.pretraining.run import Pretraining, PretrainingEpoch, identity_of, plan_of
from trainer.ptbxl import RATE_HZ, PtbXl
from trainer.run_folder import BEST_NAME
from trainer.targets import SoftLabels, refuse_teachers_of, with_targets
from trainer.train import Trainer, macro_auc
from trainer.transfer import facts_of_start
from trainer.votes import logits_after

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

WARM_S = 30
"""How much ECG of other records goes before each record for the warm figure."""
WARM_BATCH = 128
PRETRAINING_SEED = 0


class Changes(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What a variant has of its own: settings by section, and what it starts from."""

    model: dict[str, Any] = {}
    signal: dict[str, Any] = {}
    training: dict[str, Any] = {}
    pretraining: dict[str, dict[str, Any]] = {}
    """By method."""
    start: str = ""
    """A method of `ecg-trainer pretrain`; unless named, fresh weights."""


class Study(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What a study file says."""

    title: str
    base: str
    name: str = ""
    """What the base is called in the table; unless named, like its preset."""
    changes: Changes = Changes()
    """What all variants and the base itself have other than its preset."""
    seeds: Annotated[tuple[int, ...], msgspec.Meta(min_length=1)] = (0,)
    epochs: Annotated[int, msgspec.Meta(ge=1)] | None = None
    notes: str = ""
    variants: dict[str, Changes] = {}


@dataclass(frozen=True)
class Variant:
    """What is trained: a preset, and the method whose weights it starts from, if any."""

    preset: Preset
    start: str = ""


@dataclass(frozen=True)
class Outcome:
    """What one variant gave with one seed, on the tuning folds."""

    variant: str
    seed: int
    parameters: int
    records: int
    cold_auc: float
    warm_auc: float | None
    st_shift_uv: float | None


def load_study(path: Path) -> Study:
    """Read a study; raises ConfigError when it has a fault."""
    try:
        return msgspec.convert(tomllib.loads(path.read_text()), Study)
    except (OSError, msgspec.ValidationError, tomllib.TOMLDecodeError) as error:
        raise ConfigError(str(path), (str(error),)) from None


def variants_of(study: Study, base: Preset, epochs: int | None = None) -> dict[str, Variant]:
    """Return the variants of a study by name, the base first, with `epochs` if named instead of the study's.

    Raises ConfigError for a change that is none, and for a start that the base cannot have.
    """
    epochs = epochs or study.epochs or base.training.epochs
    name = study.name or base.name
    base = msgspec.structs.replace(base, training=msgspec.structs.replace(base.training, epochs=epochs))
    base = changed(base, name, study.changes)
    variants = {name: Variant(base, study.changes.start)}
    for name, changes in study.variants.items():
        variants[name] = Variant(changed(base, name, changes), changes.start or study.changes.start)
    for variant in variants.values():
        if variant.start:
            plan_of(variant.preset, variant.start)
    return variants


def changed(base: Preset, name: str, changes: Changes) -> Preset:
    """Return a preset with some settings changed; raises ConfigError for one that is none or does not fit others."""
    try:
        model = model_config(base.kind, describe_config(base.model) | changes.model)
        signal = msgspec.convert(msgspec.to_builtins(base.signal) | changes.signal, SignalPreset)
        training = msgspec.convert(msgspec.to_builtins(base.training) | changes.training, TrainingPreset)
        plans = msgspec.to_builtins(base.pretraining)
        plans |= {method: (plans.get(method) or {}) | plan for method, plan in changes.pretraining.items()}
        pretraining = msgspec.convert(plans, Plans)
    except msgspec.ValidationError as error:
        raise ConfigError(name, (str(error),)) from None
    refuse_faults(name, base.kind, model, training, pretraining)
    return msgspec.structs.replace(base, model=model, signal=signal, training=training, pretraining=pretraining)


def pretrained(
    variant: Variant, data: PtbXl, folds: Sequence[int], out: Path, facts: dict[str, Any], limit: int | None,
    on_epoch: Callable[[PretrainingEpoch, str], None],
) -> Path:  # fmt: skip
    """Return the checkpoint that a variant starts from, learned without labels from these folds where it is not there.

    Its folder's name is of what decides it, so variants that differ in nothing else share it.
    """
    method, plan = plan_of(variant.preset, variant.start)
    what = identity_of(variant.preset, method, plan)
    folder = out / f"pretrained-{method}-{hashlib.sha256(what.encode()).hexdigest()[:8]}"
    rows = data.rows(folds, labelled_only=False)[:limit]
    signal, train, _ = prepared(data, rows, [], variant.preset.signal)
    facts = {**facts, "folds": list(folds)}
    run = Pretraining(variant.preset, method, plan, signal, train, folder, PRETRAINING_SEED, facts)
    run.run(on_epoch=lambda epoch: on_epoch(epoch, run.method.score))
    return folder / BEST_NAME


def run_variant(
    name: str, preset: Preset, data: PtbXl, folds: Sequence[int], tune_folds: Sequence[int],
    soft_labels: Sequence[SoftLabels], out: Path, seed: int, facts: dict[str, Any], limit: int | None,
    on_epoch: Callable[[Epoch], None], start: Path | None = None,
) -> Outcome:  # fmt: skip
    """Train one variant in its folder, going on where it was interrupted, and measure what it kept.

    start: the checkpoint it starts from, if any.
    """
    rows, tune_rows = data.rows(folds)[:limit], data.rows(tune_folds)[:limit]
    signal, train, (tune,) = prepared(data, rows, [tune_rows], preset.signal)
    refuse_teachers_of(soft_labels, data.ecg_ids[tune_rows])
    wanted = soft_labels if preset.training.soft_label_share > 0 else []
    train = with_targets(train, data, rows, preset.training, wanted, seed)
    init = None if start is None else facts_of_start(start)
    facts = {**facts, "init": init, "folds": list(folds), "tune_folds": list(tune_folds)}
    trainer = Trainer(preset, signal, train, tune, out, seed, facts, start)
    trainer.run(on_epoch=on_epoch)
    model = load_checkpoint(out / BEST_NAME).model
    causal, tune = preset.signal.filter == "causal", trainer.tune
    warm = None
    if isinstance(model, EcgMamba):
        warm = macro_auc(tune.labels, each_by_itself(warm_logits(model, tune, seed), preset.training))
    return Outcome(
        variant=name,
        seed=seed,
        parameters=sum(parameter.numel() for parameter in model.parameters()),
        records=len(trainer.train),
        cold_auc=macro_auc(tune.labels, trainer.kept_logits(tune.signals)),
        warm_auc=warm,
        st_shift_uv=st_shift_uv(np.array(signal.sos), signal.rate_hz) if causal else None,
    )


def warm_logits(model: EcgMamba, split: Split, seed: int) -> NDArray[np.float32]:
    """Return the logits (records, classes) of records that each go on from WARM_S of others, drawn by the seed."""
    rng = np.random.default_rng(seed)
    repeats = max(1, WARM_S * RATE_HZ // split.signals.shape[1])
    parts = []
    for start in range(0, len(split), WARM_BATCH):
        signals = split.signals[start : start + WARM_BATCH]
        others = rng.integers(0, len(split), (repeats, len(signals)))
        parts.append(_warm_batch(model, [split.signals[row] for row in others], signals))
    return np.concatenate(parts)


@torch.inference_mode()
def _warm_batch(model: EcgMamba, before: list[NDArray[np.float32]], signals: NDArray[np.float32]) -> NDArray[Any]:
    state = model.initial_state(len(signals))
    for other in before:
        state |= model.encode(torch.from_numpy(other), state)[1]
    logits: NDArray[np.float32] = logits_after(model, torch.from_numpy(signals), state).numpy()
    return logits


def table_of(study: Study, outcomes: Sequence[Outcome], command: str, date: str) -> dict[str, Any]:
    """Return the table of a study, as `ecg-trainer card` takes it: mean ± standard deviation over the seeds.

    Columns that say nothing of any variant are left out.
    """
    rows = []
    for variant in dict.fromkeys(outcome.variant for outcome in outcomes):
        runs = [outcome for outcome in outcomes if outcome.variant == variant]
        shift = runs[0].st_shift_uv
        rows.append([
            variant, f"{runs[0].parameters:,}", _range([run.records for run in runs]),
            _spread([run.cold_auc for run in runs]),
            _spread([run.warm_auc for run in runs if run.warm_auc is not None]),
            "-" if shift is None else f"{shift:+.0f}", ", ".join(str(run.seed) for run in runs),
        ])  # fmt: skip
    columns = ["variant", "parameters", "records", "macro-AUC cold", f"macro-AUC after {WARM_S} s of other ECG",
               "ST shift (µV)", "seeds"]  # fmt: skip
    telling = [k for k in range(len(columns)) if any(row[k] != "-" for row in rows)]
    columns, rows = [columns[k] for k in telling], [[row[k] for k in telling] for row in rows]
    notes = study.notes or "Tuning folds, whole records; mean ± standard deviation over seeds."
    return {"title": study.title, "command": command, "date": date, "notes": notes, "columns": columns, "rows": rows}


def _range(counts: Sequence[int]) -> str:
    return f"{min(counts):,}" if min(counts) == max(counts) else f"{min(counts):,} to {max(counts):,}"


def _spread(values: Sequence[float]) -> str:
    if not values:
        return "-"
    mean = f"{np.mean(values):.4f}"
    return f"{mean} ± {np.std(values, ddof=1):.4f}" if len(values) > 1 else mean
