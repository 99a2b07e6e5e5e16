"""The runs that are compared: which there are, how far each is, and training what is missing."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edge.cli.output import say
from edge.errors import EcgEdgeError
from trainer.checkpoint import CHECKPOINT_NAME, Checkpoint, load_checkpoint
from trainer.distributed import Workers
from trainer.folds import folds_text
from trainer.history import Epoch, is_finished, read_history
from trainer.preset import Preset, described_preset, preset_names, same_recipe
from trainer.run_folder import BEST_NAME, HISTORY_NAME
from trainer.train_command import prepare, report

ONLY_BY_NAME = ("tiny", "hubert-ecg-base", "hubert-ecg-large", "resnet1d-wang-monitor", "streaming-distilled")
"""A toy, what two cores do not train in reasonable time, and what stands there already but for how it is taught."""


@dataclass(frozen=True)
class Run:
    """What stands in a folder: a checkpoint, the preset it is of, and the epochs so far."""

    folder: Path
    preset: Preset
    checkpoint: Checkpoint
    history: list[Epoch]
    notes: list[str]
    """What makes it another run than the one that was asked for."""

    @property
    def name(self) -> str:
        """What the table calls it: its folder."""
        return self.folder.name

    @property
    def epochs(self) -> int:
        """Epochs done; by the checkpoint, where there is no history."""
        return self.history[-1].epoch if self.history else int(self.checkpoint.facts.training.get("epochs", 0))

    @property
    def finished(self) -> bool:
        """Whether there are no epochs to come."""
        return not self.history or is_finished(self.history, self.preset.training)

    @property
    def seconds(self) -> float | None:
        """How long the epochs took together, or None where nothing says so."""
        return sum(epoch.seconds for epoch in self.history) if self.history else None


@dataclass(frozen=True)
class Asked:
    """What runs are asked for: the folds to train on, those to choose weights on and to measure, and the seed."""

    folds: Sequence[int]
    tune_folds: Sequence[int]
    seed: int

    @classmethod
    def of(cls, args: argparse.Namespace) -> Asked:
        """Take it from the command's arguments."""
        return cls(args.folds, args.tune_folds, args.seed)

    def differences(self, training: Mapping[str, Any]) -> Iterator[str]:
        """Say in what a run that stands is another than the one asked for, by what its checkpoint says of it."""
        for key, words in (("folds", "trained on folds"), ("tune_folds", "its weights chosen on folds")):
            then, now = training.get(key), getattr(self, key)
            if then and sorted(then) != sorted(now):
                yield f"{words} {folds_text(sorted(then))}, not {folds_text(sorted(now))}"
        if training.get("seed", self.seed) != self.seed:
            yield f"trained with seed {training['seed']}, not {self.seed}"


def default_names() -> list[str]:
    """Return the presets that are compared unless others are named."""
    return [name for name in preset_names() if name not in ONLY_BY_NAME]


def standing(
    out: Path, presets: Sequence[Preset], asked: Asked, on_fault: Callable[[str, EcgEdgeError], None]
) -> Iterator[Run]:
    """Give the runs in a folder of folders: of these presets, and of whatever else was trained there."""
    by_name = {preset.name: preset for preset in presets}
    for folder in sorted(path.parents[1] for path in out.glob(f"*/{BEST_NAME}/{CHECKPOINT_NAME}")):
        try:
            yield run_in(folder, by_name.get(folder.name), asked)
        except EcgEdgeError as error:
            on_fault(folder.name, error)


def run_in(folder: Path, wanted: Preset | None, asked: Asked) -> Run:
    """Read the run in a folder; raises BundleError or ConfigError when it cannot be used.

    What decides is the recipe it was trained by; `wanted` is the preset of its name as it is now.
    """
    checkpoint = load_checkpoint(folder / BEST_NAME)
    facts = checkpoint.facts
    trained, notes = described_preset(facts.preset), []
    if wanted is not None and same_recipe(facts.preset, wanted.for_classes(len(facts.classes))):
        trained = wanted
    elif wanted is not None:
        notes.append(f"trained by another recipe than the preset's: {', '.join(differences(facts.preset, wanted))}")
    notes += asked.differences(facts.training)
    seen = sorted(set(facts.training.get("folds") or []) & set(asked.tune_folds))
    if seen:
        notes.append(f"trained on fold {folds_text(seen)}, which it is measured on: its figures mean nothing")
    if facts.training.get("limit") is not None:
        notes.append(f"trained on no more than {facts.training['limit']} records")
    if facts.training.get("init") is not None:
        notes.append("started from what another training taught")
    return Run(folder, trained, checkpoint, read_history(folder / HISTORY_NAME), notes)


def differences(described: dict[str, Any], preset: Preset) -> Iterator[str]:
    """Name the settings in which a described preset is not this one."""
    wanted = preset.describe()
    for section in ("model", "signal", "training", "task"):
        then, now = described.get(section, {}), wanted[section]
        for key in now:
            if key != "n_classes" and key in then and _plain(then[key]) != _plain(now[key]):
                yield f"{section}.{key} {then[key]}, not {now[key]}"
    if described.get("kind") != wanted["kind"]:
        yield f"kind {described.get('kind')}, not {wanted['kind']}"


def train(preset: Preset, args: argparse.Namespace, together: Workers) -> None:
    """Train a preset in its folder, as `ecg-trainer train` would, unless it is done; raises as that does."""
    folder: Path = args.out / preset.name
    if (folder / BEST_NAME / CHECKPOINT_NAME).is_file():
        run = run_in(folder, preset, Asked.of(args))
        if run.preset is not preset or run.finished:
            say(f"{preset.name}: {run.epochs} epochs stand" + "".join(f"; {note}" for note in run.notes))
            return
        say(f"{preset.name}: {run.epochs} of {preset.training.epochs} epochs stand, going on")
    else:
        say(f"{preset.name}: {preset.training.epochs} epochs to train")
    prepare(preset, training_arguments(preset, args), together).run(on_epoch=report)


def training_arguments(preset: Preset, args: argparse.Namespace) -> argparse.Namespace:
    """Return the arguments of `ecg-trainer train` that train this preset."""
    named = args.named[preset.name]
    return argparse.Namespace(
        data=args.data, preset=named, out=args.out / preset.name, folds=args.folds, tune_folds=args.tune_folds,
        soft_labels=[], init=None, epochs=args.epochs, limit=args.limit, seed=args.seed,
    )  # fmt: skip


def _plain(value: Any) -> Any:
    return [_plain(each) for each in value] if isinstance(value, (list, tuple)) else value
