"""Why the graph and the session of ONNX Runtime are what they are.

    python tests/benchmarks/bench_runtime.py [--seconds 2] [--json]

An untrained model of the default shape, hops of one second, one thread. Times are CPU time of the calling thread, the
median of interleaved rounds, so that other work on the machine counts little; each table ends in a ratio of two things
measured in the same rounds. What a hop takes in each runtime is what `ecg-edge bench` tells.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from unittest.mock import patch

import numpy as np
import onnxruntime as ort

sys.path.insert(0, str(Path(__file__).parents[2]))

from edge.cli.output import emit_json
from edge.runtime.onnx import session_options
from export import graph
from export.builder import Dimension, GraphBuilder
from tests.random_models import random_model
from trainer.model import MambaBlock, ModelConfig

BATCHES = (1, 4, 16, 64)
CONFIG = ModelConfig()
Call = Callable[[], object]


def main() -> None:
    """Run the tables and print them."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=2.0, help="CPU time for each pair of things compared")
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args()
    tables = {
        "scan_body_against_exp_outside": scan_bodies(args.seconds),
        "optimised_against_not": optimisation_levels(args.seconds),
        "two_threads_against_one": threads(args.seconds),
    }
    if args.json:
        emit_json(tables)
        return
    for name, rows in tables.items():
        print(f"\n{name}")
        for row in rows:
            print("  " + "  ".join(f"{key} {value:.4g}" for key, value in row.items()))


def scan_bodies(seconds: float) -> list[dict[str, float]]:
    """The graph as it is against one whose exp(Δ·A) and Δ·u·b are computed for all frames before the Scan."""
    model = random_model(CONFIG)
    inside = graph.recurrent_graph(model).SerializeToString()
    with patch.object(graph, "_write_scan", _scan_with_exp_outside):
        outside = graph.recurrent_graph(model).SerializeToString()
    sessions = [ort.InferenceSession(bytes_, session_options(ort, 1)) for bytes_ in (inside, outside)]
    rows = []
    for batch in BATCHES:
        ours, other = measure(seconds, *(runner(session, batch) for session in sessions))
        rows.append({"batch": batch, "inside_ms": ours, "outside_ms": other, "outside/inside": other / ours})
    return rows


def optimisation_levels(seconds: float) -> list[dict[str, float]]:
    """All graph optimisations of ONNX Runtime against none."""
    model_bytes = graph.recurrent_graph(random_model(CONFIG)).SerializeToString()
    plain = session_options(ort, 1)
    plain.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    sessions = [ort.InferenceSession(model_bytes, options) for options in (session_options(ort, 1), plain)]
    rows = []
    for batch in (1, 16):
        all_ms, none_ms = measure(seconds, *(runner(session, batch) for session in sessions))
        rows.append({"batch": batch, "all_ms": all_ms, "none_ms": none_ms, "none/all": none_ms / all_ms})
    return rows


def threads(seconds: float) -> list[dict[str, float]]:
    """Two threads against one, sleeping and spinning: wall time, and CPU time of the whole process.

    Half of each round is idle, as between two hops: spinning threads burn it.
    """
    model_bytes = graph.recurrent_graph(random_model(CONFIG)).SerializeToString()
    rows = []
    for count, spin in ((1, 0), (2, 0), (2, 1)):
        options = ort.SessionOptions()
        options.intra_op_num_threads = count
        options.add_session_config_entry("session.intra_op.allow_spinning", str(spin))
        run = runner(ort.InferenceSession(model_bytes, options), 16)
        wall, cpu = [], []
        deadline = time.perf_counter() + seconds
        while time.perf_counter() < deadline:
            start, start_cpu = time.perf_counter(), time.process_time()
            run()
            wall.append((time.perf_counter() - start) * 1000)
            time.sleep(wall[-1] / 1000)
            cpu.append((time.process_time() - start_cpu) * 1000)
        rows.append({"threads": count, "spinning": spin, "wall_ms": median(wall), "process_cpu_ms": median(cpu)})
    return rows


def measure(seconds: float, *calls: Call) -> list[float]:
    """Return the median CPU time in ms of each call, called in turn for about `seconds` of CPU time."""
    for call in calls:
        call()
    times: list[list[float]] = [[] for _ in calls]
    start = time.thread_time()
    while time.thread_time() - start < seconds or len(times[0]) < 3:
        for call, taken in zip(calls, times, strict=True):
            before = time.thread_time()
            call()
            taken.append((time.thread_time() - before) * 1000)
    return [median(taken) for taken in times]


def runner(session: ort.InferenceSession, batch: int) -> Call:
    """Return a call that runs a session on a batch of hops."""
    state = {name: tensor.numpy() for name, tensor in random_model(CONFIG).initial_state(batch).items()}
    feed = state | {"x": hop_frames(batch)}
    return lambda: session.run(None, feed)


def hop_frames(batch: int) -> np.ndarray:
    """Return noise of a hop's shape."""
    return np.random.default_rng(0).standard_normal((batch, CONFIG.hop_samples, CONFIG.n_leads), dtype=np.float32)


def _scan_with_exp_outside(
    g: GraphBuilder, block: MambaBlock, name: str, scanned: tuple[str, str, str, str], after: dict[str, str]
) -> str:
    dt, du, b, c = scanned
    d_inner, d_state = block.A_log.shape
    a = g.floats(-block.A_log.exp().detach().numpy().T)
    decay = g.op("Exp", g.op("Mul", g.unsqueeze(dt, 2), a))
    rows = [decay, g.op("Mul", g.unsqueeze(du, 2), g.unsqueeze(b, 3)), g.unsqueeze(c, 3)]
    start = g.op("Transpose", name, perm=[0, 2, 1])
    last, y = g.ops("Scan", [start, *rows], 2, body=_plain_body(name, d_state, d_inner), num_scan_inputs=3)
    after[name] = g.op("Transpose", last, perm=[0, 2, 1])
    return y


def _plain_body(name: str, d_state: int, d_inner: int) -> object:
    g = GraphBuilder(f"{name}_")
    before, decay, add, c, now, y = (f"{name}_{part}" for part in ("h", "decay", "add", "c", "h_out", "y"))
    state_now = g.op("Add", g.op("Mul", decay, before), add)
    g.name_output(g.sum(g.op("Mul", state_now, c), 1), y)
    g.name_output(state_now, now)
    full: list[Dimension] = ["batch", d_state, d_inner]
    inputs = {before: full, decay: full, add: full, c: ["batch", d_state, 1]}
    return g.graph(f"{name}_step", inputs, {now: full, y: ["batch", d_inner]})


if __name__ == "__main__":
    main()
