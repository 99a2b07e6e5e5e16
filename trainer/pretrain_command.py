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
from trainer.cli import any_seed, n_epochs, n_records, n_threads
from trainer.data import prepared
from trainer.distributed import Workers, workers
from trainer.folds import folds_text, parse_folds
from trainer.preset import Preset, load_preset
from trainer.pretraining.plans import DEFAULTS, Plan
from trainer.pretraining.run import Pretraining, PretrainingEpoch, plan_of
from trainer.ptbxl import open_ptbxl
from trainer.run_folder import BEST_NAME
from trainer.train_command import origin, what_computes

if TYPE_CHECKING:
    from edge.cli.parsing import Subparsers


def add_parser(subparsers: Subparsers) -> None:
    """Add `pretrain`."""
    parser = add_command(
        subparsers,
        "pretrain",
        run,
        "teach a network without labels",
        "By SimCLR or BYOL (any network), causal predictive coding (the streaming Mamba) or masked clusters "
        "(HuBERT-ECG). OUT/best is what `train --init` starts from. Goes on where it was interrupted.",
        [
            "ecg-trainer pretrain --data ptb-xl --preset ssl-encoder --method simclr --out runs/simclr",
            "ecg-trainer train --data ptb-xl --preset ssl-encoder --init runs/simclr/best --out runs/tuned",
            "ecg-trainer pretrain --data ptb-xl --preset streaming --method cpc --out runs/cpc",
            "torchrun --nproc-per-node 2 -m trainer pretrain --data ptb-xl --preset hubert-ecg-small --out runs/hubert",
        ],
    )
    parser.add_argument("--data", type=Path, required=True, metavar="DIR", help="a PTB-XL root")
    parser.add_argument("--preset", required=True, help="a preset's name or a TOML file")
    parser.add_argument(
        "--method", choices=DEFAULTS,
        help="how to learn, by the preset's plan or the method's defaults (default: the one method the preset has)",
    )  # fmt: skip
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="where the run stands")
    parser.add_argument("--folds", type=parse_folds, default="1-8", help="folds to learn from (default: 1-8)")
    parser.add_argument("--epochs", type=n_epochs, metavar="N", help="epochs of each stage instead of the preset's")
    parser.add_argument("--limit", type=n_records, metavar="N", help="use the first N records only")
    parser.add_argument("--seed", type=any_seed, default=0, help="seed of weights, crops and masks (default: 0)")
    parser.add_argument("--threads", type=n_threads, metavar="N", help="threads to compute with (default: all cores)")
    parser.add_argument("--fresh", action="store_true", help="start over, even if OUT holds a run")


def run(args: argparse.Namespace) -> int:
    """Pre-train and report the last epoch."""
    preset = load_preset(args.preset)
    method, plan = plan_of(preset, args.method)
    if args.epochs is not None:
        plan = msgspec.structs.replace(plan, epochs=args.epochs)
    if args.threads:
        torch.set_num_threads(args.threads)
    with workers() as together:
        return _run(preset, method, plan, args, together)


def _run(preset: Preset, method: str, plan: Plan, args: argparse.Namespace, together: Workers) -> int:
    if args.fresh and together.first:
        shutil.rmtree(args.out, ignore_errors=True)
    data = open_ptbxl(args.data)
    rows = data.rows(args.folds, labelled_only=False)[: args.limit]
    signal, train, _ = prepared(data, rows, [], preset.signal)
    facts = {"command": command_of(args), "folds": args.folds, "limit": args.limit, "processes": together.count,
             "device": together.device.type, **origin()}  # fmt: skip
    pretraining = Pretraining(preset, method, plan, signal, train, args.out, args.seed, facts, together)
    parameters = sum(parameter.numel() for parameter in pretraining.network.parameters())
    together.say(f"{parameters:,} parameters, {what_computes(together)}, {method} on {len(train):,} records")
    score = pretraining.method.score
    last = pretraining.run(on_epoch=(lambda epoch: report(epoch, score)) if together.first else lambda epoch: None)
    together.say(f"wrote {args.out / BEST_NAME}: start from it with `ecg-trainer train --init`")
    if args.json and together.first:
        emit_json({"last": asdict(last), "records": len(train), "checkpoint": str(args.out / BEST_NAME)})
    return EXIT_OK


def report(epoch: PretrainingEpoch, score: str) -> None:
    """Say how an epoch went; score: what its figure is."""
    say(f"stage {epoch.stage}, epoch {epoch.epoch}: loss {epoch.loss:.4f}, {epoch.score:.3f} {score}, "
        f"{epoch.seconds:.0f} s")  # fmt: skip


def command_of(args: argparse.Namespace) -> str:
    """Return the command that does this again anywhere: without the folders of this machine."""
    words = ["ecg-trainer", "pretrain", "--data", "PTBXL_ROOT", "--preset", Path(args.preset).name, "--out", "RUN"]
    words += ["--folds", folds_text(args.folds), "--seed", str(args.seed)]
    for name in ("method", "epochs", "limit"):
        if getattr(args, name) is not None:
            words += [f"--{name}", str(getattr(args, name))]
    return shlex.join(words)
