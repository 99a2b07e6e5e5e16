"""Presets: everything that decides what a training makes, in one TOML file."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, Literal

import msgspec

from edge.errors import ConfigError
from trainer.augment import AUGMENTATIONS, MIXES, Augmentation
from trainer.claims import Claim
from trainer.kinds import MAMBA, describe_config, model_config, with_outputs
from trainer.mixed_precision import Precision
from trainer.pretraining.plans import FITS, Plans
from trainer.ptbxl import RATE_HZ, RECORD_SAMPLES
from trainer.tasks import TaskPreset

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

PRESETS_DIR = Path(__file__).parent / "presets"
RECORD_S = RECORD_SAMPLES / RATE_HZ
Share = Annotated[float, msgspec.Meta(ge=0.0, le=1.0)]
Positive = Annotated[float, msgspec.Meta(gt=0.0)]


class SignalPreset(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The front-end: the causal band-pass, and how its output is scaled by statistics of the training folds."""

    filter: Literal["causal", "zero_phase", "none"] = "causal"
    """zero_phase looks into the future and none lets everything pass: what a causal band is measured against in
    studies. A zero-phase model has no bundle."""
    band_hz: tuple[float, float] = (0.05, 40.0)
    high_pass_order: Annotated[int, msgspec.Meta(ge=1, le=8)] = 1
    low_pass_order: Annotated[int, msgspec.Meta(ge=1, le=8)] = 2
    normalise: Literal["global", "per_lead"] = "global"
    """global: mean 0 and one standard deviation for all leads; per_lead: each lead's own mean and deviation."""


class TrainingPreset(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The recipe. A crop shorter than a record is cut at random; averaging over its hops happens when serving."""

    loss: Literal["bce", "cross_entropy"] = "bce"
    """cross_entropy trains and reports on the records that have exactly one label, which is all they aim at."""
    positive_weight: Literal["none", "balanced"] = "none"
    """balanced: a class's positives weigh as much as its negatives, by the training records' numbers (bce only)."""
    focal_gamma: Annotated[float, msgspec.Meta(ge=0.0)] = 0.0
    """How much less what is already right counts (bce only; Lin et al. 2017, arXiv:1708.02002); 0: all counts alike."""
    soft_label_share: Share = 0.0
    """How much of the target is a teacher's probability (see `ecg-trainer cross-validate`); the rest is the label."""
    statements_weight: Annotated[float, msgspec.Meta(ge=0.0)] = 0.0
    """Weight of a second loss, over all 71 SCP statements; the outputs for it are cut off after training."""
    label_share: Annotated[float, msgspec.Meta(gt=0.0, le=1.0)] = 1.0
    """Train on the records of this share of the patients, drawn by the seed; a smaller share is part of a larger."""
    frozen: bool = False
    """Train the last layer alone, on what the rest of the network makes of a record as it stands at the start."""
    epochs: Annotated[int, msgspec.Meta(ge=1, le=10_000)] = 16
    passes: Annotated[int, msgspec.Meta(ge=1, le=10_000)] = 1
    """How often an epoch goes through the records: few records need few looks at the tuning folds."""
    batch_size: Annotated[int, msgspec.Meta(ge=1, le=65_536)] = 64
    learning_rate: Positive = 2e-3
    weight_decay: Annotated[float, msgspec.Meta(ge=0.0)] = 1e-2
    schedule: Literal["one_cycle", "constant"] = "one_cycle"
    gradient_limit: Positive = 1.0
    average_decay: Share = 0.998
    """Decay per step of the averaged weights, which are what is kept; 0 keeps the last weights themselves."""
    keep: Literal["best", "last"] = "best"
    """Keep the epoch that does best on the tuning folds, or the last one, which then owes nothing to them."""
    precision: Precision = "float32"
    """bfloat16 trains in mixed precision, twice as fast, where the processor or GPU multiplies it, and in float32 where
    it does not. The scan of a Mamba and the loss stay in float32."""
    crop_s: Positive = 2.5
    carried_share: Share = 0.0
    """Share of the batches that start from the state that the records of the batch before have left behind."""
    burn_in_s: Annotated[float, msgspec.Meta(ge=0.0)] = 0.0
    """Of a crop that starts from such a state, what the loss leaves out: there it still is another record's."""
    gain_jitter: Annotated[float, msgspec.Meta(ge=0.0, lt=1.0)] = 0.0
    """Every crop is scaled by a factor within 1 ± this."""
    noise_mv: Annotated[float, msgspec.Meta(ge=0.0)] = 0.0
    """Standard deviation of white noise at most, in millivolts before normalisation."""
    lead_dropout: Share = 0.0
    """Chance of each lead to be silent in a crop."""
    mixup: Annotated[float, msgspec.Meta(ge=0.0)] = 0.0
    """Mix each crop with another, targets too, by shares drawn from Beta(mixup, mixup) (Zhang et al. 2018)."""
    augment: tuple[Augmentation, ...] = ()
    """Further changes, one after another, before those above: see `trainer.augment`."""
    patience_epochs: Annotated[int, msgspec.Meta(ge=1)] = 6


class Preset(msgspec.Struct, frozen=True):
    """One recipe by name. What it is about and what is claimed of it decide nothing."""

    name: str
    kind: str
    model: Any
    """What `trainer.kinds` builds a model of this kind from."""
    signal: SignalPreset
    training: TrainingPreset
    task: TaskPreset = TaskPreset()
    pretraining: Plans = Plans()
    about: str = ""
    """What it is, for people."""
    claims: tuple[Claim, ...] = ()
    """What it should reach, see `ecg-trainer compare`."""

    def describe(self) -> dict[str, Any]:
        """Return it as plain values, for checkpoints and manifests; a table by its name, wherever it stands."""
        task = msgspec.structs.replace(self.task, table=Path(self.task.table).name if self.task.table else "")
        return {
            "name": self.name,
            "kind": self.kind,
            "model": describe_config(self.model),
            "signal": msgspec.to_builtins(self.signal),
            "training": msgspec.to_builtins(self.training),
            "task": msgspec.to_builtins(task),
        }

    def for_classes(self, count: int) -> Preset:
        """Return the same with as many outputs as there are classes."""
        return msgspec.structs.replace(self, model=with_outputs(self.model, count))


class _File(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    base: str = ""
    """The preset this one is but for what it says itself."""
    about: str = ""
    claims: tuple[Claim, ...] = ()
    model: dict[str, Any] = {}
    signal: SignalPreset = SignalPreset()
    training: TrainingPreset = TrainingPreset()
    task: TaskPreset = TaskPreset()
    pretraining: Plans = Plans()


def same_recipe(described: dict[str, Any], preset: Preset) -> bool:
    """Whether what `describe` once returned is this preset; settings that are newer than it stand at their defaults."""
    try:
        return described_preset(described).describe() == preset.describe()
    except ConfigError:
        return False


def described_preset(described: dict[str, Any]) -> Preset:
    """Return the preset that `describe` once described; raises ConfigError when it is none of today's."""
    try:
        return Preset(
            described["name"],
            described["kind"],
            model_config(described["kind"], described["model"]),
            msgspec.convert(described["signal"], SignalPreset),
            msgspec.convert(described["training"], TrainingPreset),
            msgspec.convert({"table": "", **described.get("task", {})}, TaskPreset),
        )
    except (KeyError, msgspec.ValidationError) as error:
        raise ConfigError(str(described.get("name", "a preset")), (f"cannot be built any more: {error}",)) from None


def preset_names() -> list[str]:
    """Return the names of the presets that come with the package."""
    return sorted(path.stem for path in PRESETS_DIR.glob("*.toml"))


def load_preset(name_or_path: str) -> Preset:
    """Load a preset by name or from a TOML file; raises ConfigError when there is none or it has a fault."""
    path = PRESETS_DIR / f"{name_or_path}.toml"
    if name_or_path not in preset_names():
        path = Path(name_or_path)
    if not path.is_file():
        raise ConfigError(
            name_or_path, (f"no such preset; there are {', '.join(preset_names())}, or name a .toml file",)
        )
    try:
        read = msgspec.convert(_with_base(path), _File)
        kind = read.model.pop("kind", MAMBA)
        model = model_config(kind, read.model)
    except (msgspec.ValidationError, tomllib.TOMLDecodeError) as error:
        raise ConfigError(str(path), (str(error),)) from None
    refuse_faults(str(path), kind, model, read.training, read.pretraining)
    task = read.task
    if task.table:
        task = msgspec.structs.replace(task, table=str(path.parent / task.table))
    about = " ".join(read.about.split())
    return Preset(path.stem, kind, model, read.signal, read.training, task, read.pretraining, about, read.claims)


def _with_base(path: Path) -> dict[str, Any]:
    """Return what a file says, its base's settings under its own; what the base is about and should reach is its own.

    Raises ConfigError for a base that is none or has one itself: a recipe must be readable in two places at most.
    """
    read: dict[str, Any] = tomllib.loads(path.read_text())
    if "base" not in read:
        return read
    name = str(read["base"])
    if name not in preset_names():
        raise ConfigError(str(path), (f"base: there is no preset {name}; there are {', '.join(preset_names())}",))
    under: dict[str, Any] = tomllib.loads((PRESETS_DIR / f"{name}.toml").read_text())
    if "base" in under:
        raise ConfigError(str(path), (f"base: {name} has a base itself ({under['base']}); name that one",))
    inherited = {key: table for key, table in under.items() if isinstance(table, dict)}
    return {**read, **{key: _merged(table, read.get(key, {}), key) for key, table in inherited.items()}}


def _merged(under: dict[str, Any], over: Any, key: str) -> Any:
    """Return a base's section under a preset's own; of [pretraining] each method's, since a plan is a section, too."""
    if not isinstance(over, dict):
        return over  # which msgspec refuses in its words
    if key != "pretraining":
        return {**under, **over}
    methods = {method: _merged(plan, over.get(method, {}), method) for method, plan in under.items()}
    return {**over, **methods}


def refuse_faults(source: str, kind: str, model: Any, recipe: TrainingPreset, plans: Plans) -> None:
    """Raise ConfigError for settings that are allowed one by one, but not together."""
    faults = (*_faults_of_model(model, recipe), *_faults_of_recipe(recipe), *_faults_of_plans(kind, plans))
    if faults:
        raise ConfigError(source, faults)


def _faults_of_model(model: Any, recipe: TrainingPreset) -> Iterator[str]:
    layout = getattr(model, "layout", "leads")
    if layout != "leads" and recipe.crop_s != RECORD_S:
        yield f'[model] layout = "{layout}" shows whole records: [training] crop_s = {RECORD_S:g}'
    if recipe.loss == "cross_entropy" and getattr(model, "vote_hops", 0) > 0:
        yield '[model] vote_hops takes every class by itself, which [training] loss = "cross_entropy" does not'


def _faults_of_recipe(recipe: TrainingPreset) -> Iterator[str]:
    if recipe.loss != "bce" and (recipe.focal_gamma > 0 or recipe.positive_weight != "none"):
        yield '[training] focal_gamma and positive_weight belong to loss = "bce"'
    if recipe.loss == "cross_entropy":
        yield from (f'[training] {name} belongs to loss = "bce": {why}' for name, why in _other_targets(recipe))
    if recipe.burn_in_s >= recipe.crop_s:
        yield f"[training] burn_in_s leaves nothing of a crop of {recipe.crop_s} s"
    if recipe.crop_s > RECORD_S:
        yield f"[training] crop_s = {recipe.crop_s:g} is longer than a record of {RECORD_S:g} s"


def _other_targets(recipe: TrainingPreset) -> Iterator[tuple[str, str]]:
    """What makes of one label a record something else, and what."""
    if recipe.soft_label_share > 0:
        yield "soft_label_share", "a teacher's probabilities of several classes are no single label"
    if recipe.statements_weight > 0:
        yield "statements_weight", "a record has several statements"
    mixes = [step.name for step in recipe.augment if AUGMENTATIONS[step.name] in MIXES]
    for name in [*(["mixup"] if recipe.mixup > 0 else []), *mixes]:
        yield name, "a mixed record has two labels"


def _faults_of_plans(kind: str, plans: Plans) -> Iterator[str]:
    for method, plan in plans.stated().items():
        if FITS.get(method, kind) != kind:
            yield f"[pretraining.{method}] is for kind {FITS[method]}, not {kind}"
        if plan.crop_s is not None and plan.crop_s > RECORD_S:
            yield f"[pretraining.{method}] crop_s = {plan.crop_s:g} is longer than a record of {RECORD_S:g} s"
