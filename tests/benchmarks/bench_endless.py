"""Whether the state after ten million samples is as healthy as after ten thousand.

    python tests/benchmarks/bench_endless.py --data PTBXL_ROOT [--bundle DIR] [--samples 10000000] [--progress FILE]

A few streams of fold 9's records, put end to end with the steps between them left in, for that many samples each: at
100 Hz ten million are 28 hours of ECG. For every decade of samples it prints the size of the carried state (root mean
square, median and largest) and the macro-AUC of the records that ended in it. What stays the same from decade to decade
does not drift. With --progress it goes on where it was stopped. A hop takes about a millisecond and a half per stream.
"""

from __future__ import annotations

import argparse
import sys
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

sys.path.insert(0, str(Path(__file__).parents[2]))

from edge.cli.output import emit_json, say
from edge.monitor.engine import ModelStream, score_hops
from edge.monitor.path import StreamPath
from edge.runtime.base import Runtime, calibrated, root_mean_square
from edge.runtime.bundle import load_bundle
from edge.runtime.manifest import Manifest
from edge.runtime.select import open_runtime
from edge.signal.leads import STANDARD_LEADS
from edge.stream.runs import Reset, Run
from trainer.data import records_mv
from trainer.metrics import figures
from trainer.ptbxl import RATE_HZ, RECORD_SAMPLES, PtbXl, open_ptbxl
from trainer.state_monitor import watched_tensors

FOLD = 9
SAVE_EVERY_TURNS = 200
FIRST_DECADE = 3
"""Up to 10³ samples a stream has played one record."""

Arrays = dict[str, NDArray[np.generic]]


def main() -> None:
    """Play, print a line per decade."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="a PTB-XL root")
    parser.add_argument("--bundle", type=Path, help="a model bundle (default: the one that ships)")
    parser.add_argument("--samples", type=float, default=1e7, help="samples per stream")
    parser.add_argument("--streams", type=int, default=4)
    parser.add_argument(
        "--progress", type=Path, metavar="FILE", help="keep what has been played here, and go on from it"
    )
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args()
    runtime, data = open_runtime(load_bundle(args.bundle)), open_ptbxl(args.data)
    turns = max(1, round(args.samples / RECORD_SAMPLES))
    session = Session.begin(runtime, args.streams)
    if args.progress is not None and args.progress.is_file():
        session.load(args.progress)
    rows = playlists(data, args.streams, turns)
    for turn in range(session.turns, turns):
        session.play(records_mv(data, rows[:, turn]))
        last = turn + 1 == turns
        if (turn + 1) % SAVE_EVERY_TURNS == 0 or last:
            say(f"{turn + 1} of {turns} records per stream")
            if args.progress is not None:
                session.save(args.progress)
    table = by_decade(runtime.bundle.manifest, session, data.labels[rows[:, : session.turns]])
    if args.json:
        emit_json(
            {"streams": args.streams, "samples": turns * RECORD_SAMPLES, "faults": session.faults, "decades": table}
        )
        return
    for line in table:
        print("  ".join(f"{key} {value}" for key, value in line.items()))
    print(f"states given up by the monitor: {session.faults}")


def playlists(data: PtbXl, streams: int, turns: int) -> NDArray[np.int64]:
    """Return (streams, turns) rows of fold 9: every record once before any comes again."""
    rng, rows = np.random.default_rng(0), data.rows([FOLD])
    rounds = -(-streams * turns // len(rows))
    order = np.concatenate([rng.permutation(rows) for _ in range(rounds)])[: streams * turns]
    return order.reshape(turns, streams).T


@dataclass
class Session:
    """Streams in play, and what has been seen of them: after each record its logits and the sizes of the state."""

    runtime: Runtime
    paths: list[StreamPath]
    models: list[ModelStream]
    turns: int = 0
    faults: int = 0
    logits: list[NDArray[np.float32]] = field(default_factory=list)  # (streams, classes) per turn
    sizes: list[NDArray[np.float64]] = field(default_factory=list)  # (streams, tensors) per turn

    @classmethod
    def begin(cls, runtime: Runtime, streams: int) -> Session:
        """Open streams that have seen nothing."""
        manifest = runtime.bundle.manifest
        paths = [StreamPath(manifest, RATE_HZ, STANDARD_LEADS) for _ in range(streams)]
        return cls(runtime, paths, [ModelStream(runtime.open_slot()) for _ in range(streams)])

    def play(self, record_mv: NDArray[np.float64]) -> None:
        """Let each stream play one record (streams, samples, leads)."""
        start = Reset.START if self.turns == 0 else None
        valid = np.zeros(record_mv.shape[1:], dtype=bool)
        runs = [Run(self.turns * RECORD_SAMPLES, of_stream, valid, start) for of_stream in record_mv]
        hops = [path.push(run) for path, run in zip(self.paths, runs, strict=True)]
        for together in zip(*hops, strict=True):
            scores = score_hops(self.runtime, self.models, together)
            self.faults += sum(not score.healthy for score in scores)
        self.logits.append(np.array([score.logits for score in scores]))
        self.sizes.append(np.array([self._sizes(model) for model in self.models]))
        self.turns += 1

    def _sizes(self, model: ModelStream) -> list[float]:
        state = self.runtime.save_slot(model.slot)
        return [root_mean_square(state[name]) for name in watched_tensors(self.runtime.bundle)]

    def save(self, path: Path) -> None:
        """Write everything to a file."""
        arrays: Arrays = {
            "logits": np.array(self.logits),
            "sizes": np.array(self.sizes),
            "faults": np.array(self.faults),
        }
        for k, (stream, model) in enumerate(zip(self.paths, self.models, strict=True)):
            arrays |= {f"path{k}.{name}": array for name, array in stream.save().items()}
            arrays |= {f"model{k}.{name}": array for name, array in self.runtime.save_slot(model.slot).items()}
            arrays[f"hops{k}"] = np.array(model.hops_seen)
            if model.votes is not None:
                arrays[f"votes{k}"] = model.votes
        partial = path.with_name(f"{path.name}.partial.npz")
        np.savez(partial, allow_pickle=False, **arrays)
        partial.replace(path)

    def load(self, path: Path) -> None:
        """Go on where a file stands."""
        with np.load(path, allow_pickle=False) as stored:
            arrays = {name: stored[name] for name in stored.files}
        self.logits, self.sizes = list(arrays["logits"]), list(arrays["sizes"])
        self.turns, self.faults = len(self.logits), int(arrays["faults"])
        for k, (stream, model) in enumerate(zip(self.paths, self.models, strict=True)):
            stream.load(_with_prefix(arrays, f"path{k}."))
            self.runtime.load_slot(model.slot, _with_prefix(arrays, f"model{k}."))
            model.hops_seen, model.votes = int(arrays[f"hops{k}"]), arrays.get(f"votes{k}")


def by_decade(manifest: Manifest, session: Session, labels: NDArray[np.float32]) -> list[dict[str, object]]:
    """Return a line for each decade of samples; labels are (streams, turns, classes)."""
    logits, sizes = np.array(session.logits), np.array(session.sizes)  # (turns, streams, …)
    samples = RECORD_SAMPLES * np.arange(1, len(logits) + 1)
    decades = np.ceil(np.log10(samples)).astype(int)  # a record belongs to the decade in which it ends
    names = [tensor.name for tensor in manifest.state if tensor.name.startswith("ssm_")]
    lines: list[dict[str, object]] = []
    for decade in range(FIRST_DECADE, decades[-1] + 1):
        chosen = decades == decade
        probabilities = calibrated(manifest.calibration, logits[chosen]).reshape(-1, len(manifest.classes))
        truth = labels.swapaxes(0, 1)[chosen].reshape(probabilities.shape)
        measured = figures(truth, probabilities, [0.5] * len(manifest.classes), manifest.classes)
        auc = None if measured.notes else round(float(measured.macro_auc or 0.0), 4)
        seen = sizes[chosen].reshape(-1, len(names))
        spread = {
            name: f"{np.median(seen[:, k]):.4g} (99 %: {np.percentile(seen[:, k], 99):.4g}, max {seen[:, k].max():.4g})"
            for k, name in enumerate(names)
        }
        lines.append({"samples": f"<= 1e{decade}", "records": len(seen), "macro_auc": auc, **spread})
    return lines


def _with_prefix(arrays: Arrays, prefix: str) -> Arrays:
    return {name[len(prefix) :]: array for name, array in arrays.items() if name.startswith(prefix)}


if __name__ == "__main__":
    main()
