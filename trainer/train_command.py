"""`ecg-trainer train`: from a PTB-XL root and a preset to a checkpoint."""

from __future__ import annotations

import argparse
import hashlib
import importlib.metadata
import platform
import shlex
import shutil
import subprocess
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec
import numpy as np
import torch

from edge.cli.output import EXIT_OK, emit_json, say
from edge.cli.parsing import add_command
from trainer.cli import any_seed, n_epochs, n_records, n_threads
from trainer.data import prepared
from trainer.distributed import Workers, workers
from trainer.filters import st_shift_text
from trainer.folds import folds_text, parse_folds, refuse_overlap, tuning_folds
from trainer.history import Epoch
from trainer.preset import Preset, load_preset
from trainer.run_folder import BEST_NAME
from trainer.scan import implementation_name
from trainer.targets import load_soft_labels, named, refuse_teachers_of, with_targets
from trainer.tasks import open_task
from trainer.train import Trainer
from trainer.transfer import facts_of_start

if TYPE_CHECKING:
    from edge.cli.parsing import Subparsers

REPRODUCED_BY = ("torch", "numpy", "scipy")


def add_parser(subparsers: Subparsers) -> None:
    """Add `train`."""
    parser = add_command(
        subparsers,
        "train",
        run,
        "train a model on PTB-XL",
        "Keeps the weights that do best on the tuning fold in OUT/best and goes on where it was interrupted.",
        [
            "ecg-trainer train --data ptb-xl --preset streaming --out runs/streaming",
            "ecg-trainer train --data ptb-xl --preset tiny --limit 200 --out /tmp/try",
            "ecg-trainer train --data ptb-xl --preset mine.toml --init runs/superclass/best --out runs/mine",
            "torchrun --nproc-per-node 2 -m trainer train --data ptb-xl --preset streaming --out runs/streaming",
        ],
    )
    parser.add_argument("--data", type=Path, required=True, metavar="DIR", help="a PTB-XL root")
    parser.add_argument("--preset", default="streaming", help="a preset's name or a TOML file (default: streaming)")
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="where the run stands")
    parser.add_argument("--folds", type=parse_folds, default="1-8", help="folds to train on (default: 1-8)")
    parser.add_argument("--tune-folds", type=tuning_folds, default="9", help="folds to choose weights on (default: 9)")
    parser.add_argument(
        "--soft-labels", type=Path, nargs="+", default=[], metavar="FILE",
        help="probabilities of other models to learn from (see cross-validate), for presets with soft_label_share",
    )  # fmt: skip
    parser.add_argument(
        "--init", type=Path, metavar="PATH",
        help="start from what was learned elsewhere, with a new head: a checkpoint folder such as RUN/best, of this "
        "or another task or of `pretrain`; for hubert-ecg also a public .safetensors file",
    )  # fmt: skip
    parser.add_argument("--epochs", type=n_epochs, metavar="N", help="train this long instead of what the preset says")
    parser.add_argument("--limit", type=n_records, metavar="N", help="use the first N records of each split only")
    parser.add_argument("--seed", type=any_seed, default=0, help="seed of weights, crops and order (default: 0)")
    parser.add_argument("--threads", type=n_threads, metavar="N", help="threads to compute with (default: all cores)")
    parser.add_argument("--fresh", action="store_true", help="start over, even if OUT holds a run")


def run(args: argparse.Namespace) -> int:
    """Train and report the best epoch."""
    preset = with_epochs(load_preset(args.preset), args.epochs)
    if args.threads:
        torch.set_num_threads(args.threads)
    with workers() as together:
        return _run(preset, args, together)


def _run(preset: Preset, args: argparse.Namespace, together: Workers) -> int:
    if args.fresh and together.first:
        shutil.rmtree(args.out, ignore_errors=True)
    trainer = prepare(preset, args, together)
    parameters, records = sum(p.numel() for p in trainer.model.parameters()), len(trainer.train.signals)
    together.say(f"{parameters:,} parameters, {what_computes(together)}, {records:,} records to train on, "
                 f"{len(trainer.tune.signals):,} to tune on")  # fmt: skip
    best = trainer.run(on_epoch=report if together.first else lambda epoch: None)
    together.say(
        f"best: epoch {best.epoch}, macro-AUC {best.macro_auc:.4f} on the tuning fold, in {args.out / BEST_NAME}"
    )
    if args.json and together.first:
        emit_json({"best": asdict(best), "epochs": len(trainer.history), "checkpoint": str(args.out / BEST_NAME)})
    return EXIT_OK


def prepare(preset: Preset, args: argparse.Namespace, together: Workers) -> Trainer:
    """Load both splits and build the run; raises ConfigError when they share a fold."""
    refuse_overlap(args.folds, args.tune_folds)
    data = open_task(args.data, preset.task)
    train_rows, tune_rows = data.rows(args.folds)[: args.limit], data.rows(args.tune_folds)[: args.limit]
    soft_labels = [load_soft_labels(path, data.classes) for path in args.soft_labels]
    refuse_teachers_of(soft_labels, data.ecg_ids[tune_rows])
    together.say("filtering the records as they will be served")
    signal, train, (tune,) = prepared(data, train_rows, [tune_rows], preset.signal)
    if preset.signal.filter == "causal":
        together.say(f"the filter moves the ST level by {st_shift_text(np.array(signal.sos), signal.rate_hz)}")
    train = with_targets(train, data, train_rows, preset.training, soft_labels, args.seed)
    facts = {**facts_of(args), "processes": together.count, "device": together.device.type}
    return Trainer(preset, signal, train, tune, args.out, args.seed, facts, args.init, together)


def what_computes(together: Workers) -> str:
    """Return what computes, in words: the CPU's scan or a GPU, and in how many processes."""
    place = f"{implementation_name()} scan" if together.device.type == "cpu" else str(together.device)
    return place if together.count == 1 else f"{together.count} processes, {place}"


def facts_of(args: argparse.Namespace) -> dict[str, Any]:
    """Return what a checkpoint should say of how it was made."""
    return {
        "command": command_of(args),
        "folds": args.folds,
        "tune_folds": args.tune_folds,
        "limit": args.limit,
        "init": None if args.init is None else facts_of_start(args.init),
        "soft_labels": {named(path): hashlib.sha256(path.read_bytes()).hexdigest() for path in args.soft_labels},
        **origin(),
    }


def origin() -> dict[str, Any]:
    """Return what any training should say of where it happened."""
    return {
        "data": "PTB-XL 1.0.3, records100",
        "commit": _commit(),
        "python": platform.python_version(),
        "versions": {name: importlib.metadata.version(name) for name in REPRODUCED_BY},
        "threads": torch.get_num_threads(),
    }


def command_of(args: argparse.Namespace) -> str:
    """Return the command that does this again anywhere: without the folders of this machine."""
    words = ["ecg-trainer", "train", "--data", "PTBXL_ROOT", "--preset", Path(args.preset).name, "--out", "RUN"]
    words += ["--folds", folds_text(args.folds), "--tune-folds", folds_text(args.tune_folds), "--seed", str(args.seed)]
    if args.soft_labels:
        words += ["--soft-labels", *map(named, args.soft_labels)]
    if args.init:
        words += ["--init", args.init.name]
    for name in ("epochs", "limit"):
        if getattr(args, name) is not None:
            words += [f"--{name}", str(getattr(args, name))]
    return shlex.join(words)


def report(epoch: Epoch) -> None:
    """Say how an epoch went."""
    say(f"epoch {epoch.epoch}: loss {epoch.loss:.4f}, macro-AUC {epoch.macro_auc:.4f}, "
        f"macro-AP {epoch.macro_auprc:.4f}, accuracy {epoch.accuracy:.4f}, {epoch.seconds:.0f} s")  # fmt: skip


def with_epochs(preset: Preset, epochs: int | None) -> Preset:
    """Return the preset with another number of epochs, if one is named."""
    if epochs is None:
        return preset
    return msgspec.structs.replace(preset, training=msgspec.structs.replace(preset.training, epochs=epochs))


def _commit() -> str:
    """Return the commit of the checkout this runs from, or unknown."""
    here = Path(__file__).parent
    git = shutil.which("git")
    if git is None:
        return "unknown"
    command = [git, "rev-parse", "HEAD"]
    found = subprocess.run(command, cwd=here, capture_output=True, text=True, check=False)  # noqa: S603 - constants
    return found.stdout.strip() or "unknown"
