"""`ecg-trainer pretrain`: from ECG without labels to weights that `train --init` starts from."""

from __future__ import annotations

import argparse
import shlex
import shutil
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec
import torch

from edge.cli.output import EXIT_OK, emit_json, say
from edge.cli.parsing import add_command
from trainer.data import prepared
from trainer.folds import folds_text, parse_folds
from trainer.preset import Preset, load_preset
from trainer.pretrain import Pretraining, PretrainingEpoch
from trainer.ptbxl import open_ptbxl
from trainer.train import BEST_NAME
from trainer.train_command import origin

if TYPE_CHECKING:
    from edge.cli.parsing import Subparsers


def add_parser(subparsers: Subparsers) -> None:
    """Add `pretrain`."""
    parser = add_command(
        subparsers,
        "pretrain",
        run,
        "teach a network without labels",
        "Masked cluster prediction in stages, for presets with [pretraining]. OUT/best is what `train --init` starts "
        "from. Goes on where it was interrupted.",
        [
            "ecg-trainer pretrain --data ptb-xl --preset hubert-ecg-small --out runs/hubert",
            "ecg-trainer train --data ptb-xl --preset hubert-ecg-small --init runs/hubert/best --out runs/tuned",
        ],
    )
    parser.add_argument("--data", type=Path, required=True, metavar="DIR", help="a PTB-XL root")
    parser.add_argument("--preset", default="hubert-ecg-small", help="a preset's name or a TOML file")
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="where the run stands")
    parser.add_argument("--folds", type=parse_folds, default="1-8", help="folds to learn from (default: 1-8)")
    parser.add_argument("--epochs", type=int, metavar="N", help="epochs of each stage instead of the preset's")
    parser.add_argument("--limit", type=int, metavar="N", help="use the first N records only")
    parser.add_argument("--seed", type=int, default=0, help="seed of weights, crops and masks (default: 0)")
    parser.add_argument("--threads", type=int, metavar="N", help="threads to compute with (default: all cores)")
    parser.add_argument("--fresh", action="store_true", help="start over, even if OUT holds a run")


def run(args: argparse.Namespace) -> int:
    """Pre-train and report the last epoch."""
    preset = _with_epochs(load_preset(args.preset), args.epochs)
    if args.threads:
        torch.set_num_threads(args.threads)
    if args.fresh:
        shutil.rmtree(args.out, ignore_errors=True)
    data = open_ptbxl(args.data)
    rows = data.rows(args.folds, labelled_only=False)[: args.limit]
    signal, train, _ = prepared(data, rows, [], preset.signal)
    facts = {"command": command_of(args), "folds": args.folds, "limit": args.limit, **origin()}
    last = Pretraining(preset, signal, train, args.out, args.seed, facts).run(on_epoch=report)
    say(f"wrote {args.out / BEST_NAME}: start from it with `ecg-trainer train --init`")
    if args.json:
        emit_json({"last": asdict(last), "records": len(train), "checkpoint": str(args.out / BEST_NAME)})
    return EXIT_OK


def report(epoch: PretrainingEpoch) -> None:
    """Say how an epoch went."""
    say(f"stage {epoch.stage}, epoch {epoch.epoch}: loss {epoch.loss:.4f}, {epoch.accuracy:.1%} of the hidden frames "
        f"guessed, {epoch.seconds:.0f} s")  # fmt: skip


def command_of(args: argparse.Namespace) -> str:
    """Return the command that does this again anywhere: without the folders of this machine."""
    words = ["ecg-trainer", "pretrain", "--data", "PTBXL_ROOT", "--preset", args.preset, "--out", "RUN"]
    words += ["--folds", folds_text(args.folds), "--seed", str(args.seed)]
    for name in ("epochs", "limit"):
        if getattr(args, name) is not None:
            words += [f"--{name}", str(getattr(args, name))]
    return shlex.join(words)


def _with_epochs(preset: Preset, epochs: int | None) -> Preset:
    if epochs is None or preset.pretraining is None:
        return preset
    return msgspec.structs.replace(preset, pretraining=msgspec.structs.replace(preset.pretraining, epochs=epochs))
