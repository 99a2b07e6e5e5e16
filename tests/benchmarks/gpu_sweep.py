"""What a GPU makes of the model: parity of every way to run a hop there, and how long it takes from 1 to 4,096 streams.

    python tests/benchmarks/gpu_sweep.py [--bundle DIR] [--seconds 1] [--device cuda|cpu]

Prints one JSON object. Needs PyTorch and the bundle's files, nothing else of this project; ONNX Runtime, mamba_ssm and
TensorRT (with pycuda, and engines that `ecg-export tensorrt` has built) are measured where they are. Times are the
median of repeated hops, the GPU waited for after each; `streams` is how many streams in real time that is.
`--device cpu` is for trying the script without a GPU.
"""

from __future__ import annotations

import argparse
import copy
import json
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file
from torch import nn

sys.path.insert(0, str(Path(__file__).parents[2]))

from trainer.model import EcgMamba, ModelConfig

SHIPPED = Path(__file__).parents[2] / "edge" / "bundles" / "ecg-mamba"
BATCHES = (1, 4, 16, 64, 256, 1024, 4096)
PARITY_STREAMS, PARITY_HOPS = 4, 30
WARM_UPS = 3

Step = Callable[[np.ndarray], np.ndarray]
"""One hop of all streams, carrying their state: samples (B, T, leads) → logits (B, C)."""


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--bundle", type=Path, default=SHIPPED)
    parser.add_argument("--seconds", type=float, default=1.0, help="time for each figure")
    parser.add_argument("--device", choices=["cuda", "cpu"], default="cuda")
    parser.add_argument("--batches", type=int, nargs="+", default=list(BATCHES))
    args = parser.parse_args()
    if args.device == "cuda" and not torch.cuda.is_available():
        print(json.dumps({"error": "no GPU: torch.cuda.is_available() is false"}))
        raise SystemExit(1)
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
    bench = Bench(args.bundle, args.device)
    with torch.inference_mode():
        result = {
            "device": bench.device_name,
            "torch": torch.__version__,
            "model": bench.manifest["files"]["model.onnx"],
            "parameters": sum(p.numel() for p in bench.model.parameters()),
            "parity": dict(parity(bench)),
            "sweep": list(sweep(bench, args.batches, args.seconds)),
        }
    print(json.dumps(result, indent=1))


class Bench:
    """The model on the device, and every way to run it there."""

    def __init__(self, bundle: Path, device: str) -> None:
        self.bundle, self.device = bundle, device
        self.manifest: dict[str, Any] = json.loads((bundle / "manifest.json").read_text())
        self.config = ModelConfig(**{k: v for k, v in self.manifest["model"].items() if k != "kind"})
        self.model = EcgMamba(self.config).eval()
        self.model.load_state_dict(load_file(bundle / "model.safetensors"))
        self.model.to(device)
        self.halved = with_half_projections(self.model)
        self.device_name = torch.cuda.get_device_name() if device == "cuda" else "cpu"

    @property
    def ways(self) -> dict[str, Callable[[int], Step]]:
        """Name → a maker of steps for a batch size; one that cannot work here raises when it is called."""
        ways: dict[str, Callable[[int], Step]] = {
            "pytorch": lambda batch: eager(self, batch, half=False),
            "pytorch_fp16": lambda batch: eager(self, batch, half=True),
            "onnxruntime_cuda": lambda batch: onnx_cuda(self, batch, "model.onnx"),
            "onnxruntime_cuda_fp16": lambda batch: onnx_cuda(self, batch, "model_fp16.onnx"),
            "mamba_ssm_step": lambda batch: mamba_ssm_step(self, batch),
            "tensorrt_fp32": lambda batch: tensorrt(self, batch, "fp32"),
            "tensorrt_fp16": lambda batch: tensorrt(self, batch, "fp16"),
        }
        if self.device == "cuda":
            ways |= {
                "pytorch_graph": lambda batch: replayed(self, batch, half=False),
                "pytorch_graph_fp16": lambda batch: replayed(self, batch, half=True),
            }
        return ways

    def frames(self, batch: int, seed: int = 0) -> np.ndarray:
        """One hop of noise on the scale of normalised ECG."""
        rng = np.random.default_rng(seed)
        return rng.standard_normal((batch, self.config.hop_samples, self.config.n_leads), dtype=np.float32)


def parity(bench: Bench) -> Iterator[tuple[str, object]]:
    """Largest |Δlogit| of each way from PyTorch in float64 on the CPU, over hops with carried state."""
    reference = EcgMamba(bench.config).eval().double()
    reference.load_state_dict(bench.model.state_dict())
    state, expected = reference.initial_state(PARITY_STREAMS), []
    hops = [bench.frames(PARITY_STREAMS, seed) for seed in range(PARITY_HOPS)]
    for hop in hops:
        logits, state = reference(torch.from_numpy(hop).double(), state)
        expected.append(logits.numpy())
    for name, make in bench.ways.items():
        try:
            step = make(PARITY_STREAMS)
            yield name, max(float(np.abs(step(hop) - want).max()) for hop, want in zip(hops, expected, strict=True))
        except Exception as error:
            yield name, {"not_run": f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"}


def sweep(bench: Bench, batches: list[int], seconds: float) -> Iterator[dict[str, object]]:
    """Milliseconds per hop of each way and batch size."""
    hop_ms = 1000 * bench.manifest["hop_s"]
    for name, make in bench.ways.items():
        for batch in batches:
            try:
                ms = timed_ms(make(batch), bench.frames(batch), seconds)
            except Exception as error:
                yield {"way": name, "batch": batch, "not_run": f"{type(error).__name__}: {str(error)[:120]}"}
                break
            yield {"way": name, "batch": batch, "ms_per_hop": round(ms, 4), "streams": round(batch * hop_ms / ms)}


def timed_ms(step: Step, frames: np.ndarray, seconds: float) -> float:
    """Median time of a hop, copies to and from the GPU included."""
    for _ in range(WARM_UPS):
        step(frames)
    times, until_s = [], time.perf_counter() + seconds
    while len(times) < WARM_UPS or time.perf_counter() < until_s:
        begun_s = time.perf_counter()
        step(frames)
        times.append((time.perf_counter() - begun_s) * 1000)
    return median(times)


def eager(bench: Bench, batch: int, half: bool) -> Step:
    """PyTorch, kernel by kernel; `half` computes the projections in float16, as the cast graph does."""
    model, state = bench.halved if half else bench.model, bench.model.initial_state(batch)

    def step(frames: np.ndarray) -> np.ndarray:
        nonlocal state
        logits, state = model(torch.from_numpy(frames).to(bench.device), state)
        return logits.cpu().numpy()

    return step


def replayed(bench: Bench, batch: int, half: bool) -> Step:
    """The same kernels, recorded once in a CUDA graph; the state stays in the buffers the graph was recorded with."""
    x = torch.from_numpy(bench.frames(batch)).pin_memory()
    on_gpu, state = x.to(bench.device), bench.model.initial_state(batch)
    model = bench.halved if half else bench.model

    def advance() -> torch.Tensor:
        logits, after = model(on_gpu, state)
        for name, tensor in after.items():
            state[name].copy_(tensor)
        return logits

    side = torch.cuda.Stream()
    with torch.cuda.stream(side):
        for _ in range(WARM_UPS):
            advance()
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        logits = advance()
    for name, tensor in bench.model.initial_state(batch).items():
        state[name].copy_(tensor)

    def step(frames: np.ndarray) -> np.ndarray:
        x.copy_(torch.from_numpy(frames))
        on_gpu.copy_(x, non_blocking=True)
        graph.replay()
        return logits.cpu().numpy()

    return step


def mamba_ssm_step(bench: Bench, batch: int) -> Step:
    """The package's own recurrent step, frame by frame; stem, norms and pooling are this project's."""
    from mamba_ssm import Mamba

    config, model = bench.config, bench.model
    mixers = []
    for block in model.blocks:
        mixer = Mamba(config.d_model, d_state=config.d_state, d_conv=config.d_conv, expand=config.expand)
        mixer.load_state_dict(block.state_dict())
        mixers.append(mixer.to(bench.device).eval())
    caches = [mixer.allocate_inference_cache(batch, 1) for mixer in mixers]
    state = model.initial_state(batch)

    def step(frames: np.ndarray) -> np.ndarray:
        nonlocal state
        x, state["stem"] = model.stem(torch.from_numpy(frames).to(bench.device), state["stem"])
        for norm, mixer, (conv, ssm) in zip(model.norms, mixers, caches, strict=True):
            mixed = torch.cat([mixer.step(frame, conv, ssm)[0] for frame in norm(x).split(1, dim=1)], dim=1)
            x = x + mixed if config.residual else mixed
        pooled, after = model.pool(model.final_norm(x), state)
        state |= after
        return model.classify(pooled).cpu().numpy()

    return step


def onnx_cuda(bench: Bench, batch: int, name: str) -> Step:
    """ONNX Runtime with its CUDA provider, or on the CPU where the script is only tried; the state goes to and fro."""
    import onnxruntime as ort

    provider = "CUDAExecutionProvider" if bench.device == "cuda" else "CPUExecutionProvider"
    if provider not in ort.get_available_providers():
        raise RuntimeError(f"this ONNX Runtime has no {provider}")
    session = ort.InferenceSession(bench.bundle / name, providers=[provider])
    names = [tensor["name"] for tensor in bench.manifest["state"]]
    start = {t["name"]: np.full((batch, *t["shape"]), t["init"], np.float32) for t in bench.manifest["state"]}
    carried = {
        each: ort.OrtValue.ortvalue_from_numpy(value, bench.device if bench.device == "cuda" else "cpu", 0)
        for each, value in start.items()
    }

    def step(frames: np.ndarray) -> np.ndarray:
        nonlocal carried
        binding = session.io_binding()
        binding.bind_cpu_input("x", frames)
        for each, value in carried.items():
            binding.bind_ortvalue_input(each, value)
        binding.bind_output("logits", "cpu")
        for each in names:
            binding.bind_output(f"{each}_out", bench.device)
        session.run_with_iobinding(binding)
        logits, *states = binding.get_outputs()
        carried = dict(zip(names, states, strict=True))
        return np.asarray(logits.numpy())

    return step


def tensorrt(bench: Bench, batch: int, precision: str) -> Step:
    """This project's own runtime: states in slots on the GPU, a CUDA graph per batch size."""
    from edge.runtime.bundle import load_bundle
    from edge.runtime.tensorrt.runtime import TensorRtRuntime

    runtime = TensorRtRuntime(load_bundle(bench.bundle), precision=precision)
    slots = [runtime.open_slot() for _ in range(batch)]
    return lambda frames: runtime.step(slots, frames)


class HalfProjection(nn.Module):
    """A projection between two casts."""

    def __init__(self, projection: nn.Module) -> None:
        super().__init__()
        self.weight = projection.weight
        self.projection = copy.deepcopy(projection).half()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.projection(x.half()).float()


def with_half_projections(model: EcgMamba) -> EcgMamba:
    """Return a copy of a model whose linear layers and stem compute in float16; the depthwise convolutions do not."""
    halved = copy.deepcopy(model)
    halved.stem.conv = HalfProjection(halved.stem.conv)
    for parent in [halved, *halved.blocks]:
        for name, layer in list(parent.named_children()):
            if isinstance(layer, nn.Linear):
                setattr(parent, name, HalfProjection(layer))
    return halved


if __name__ == "__main__":
    main()
