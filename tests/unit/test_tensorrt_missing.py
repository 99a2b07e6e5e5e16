"""Where TensorRT cannot work, one line says why and another runtime takes over."""

from __future__ import annotations

import base64
import importlib.util
import json
import logging
import re
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import onnx
import pytest

from edge.daemon.doctor import Check, check_runtimes
from edge.errors import RuntimeUnavailableError
from edge.runtime.bundle import Bundle, load_bundle, write_manifest
from edge.runtime.select import AUTO, open_or_fall_back
from edge.runtime.tensorrt.cache import ENGINE_SUFFIX, EngineCache
from edge.runtime.tensorrt.runtime import TensorRtRuntime
from tests.fake_gpu.machine import Machine
from tests.fake_gpu.plug_in import build_engine_here, plug_in
from tests.fake_gpu.tensorrt import MAGIC, tensorrt_module
from tests.tiny_bundle import tiny_bundle


@dataclass
class Bench:
    """What a scenario may break."""

    patch: pytest.MonkeyPatch
    machine: Machine
    bundle: Bundle
    cache: Path

    @property
    def pycuda(self) -> Any:
        return sys.modules["pycuda.driver"]

    @property
    def engine(self) -> Path:
        """The one engine in the cache."""
        (path,) = self.cache.glob(f"*{ENGINE_SUFFIX}")
        return path


@pytest.fixture
def bench(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Bench:
    machine, cache = Machine(), tmp_path / "engines"
    plug_in(monkeypatch, machine, cache)
    bench = Bench(monkeypatch, machine, tiny_bundle(tmp_path / "bundle"), cache)
    build_engine_here(bench.bundle)
    return bench


def no_tensorrt(bench: Bench) -> None:
    bench.patch.setitem(sys.modules, "tensorrt", None)


def old_tensorrt(bench: Bench) -> None:
    bench.machine.tensorrt = "8.6.2"
    bench.patch.setitem(sys.modules, "tensorrt", tensorrt_module(bench.machine))


def no_pycuda(bench: Bench) -> None:
    bench.patch.setitem(sys.modules, "pycuda.driver", None)


def no_driver(bench: Bench) -> None:
    bench.patch.delitem(sys.modules, "pycuda.driver")
    bench.patch.delitem(sys.modules, "pycuda")
    bench.patch.setattr("edge.runtime.tensorrt.device.import_module", _driver_missing)


def no_gpu(bench: Bench) -> None:
    def init() -> None:
        raise bench.pycuda.Error("cuInit failed:\nno CUDA-capable device is detected")

    bench.pycuda.init = init


def old_driver(bench: Bench) -> None:
    bench.machine.driver_too_old = True


def no_float16_graph(bench: Bench) -> None:
    bench.machine.sm = (7, 5)
    manifest = bench.bundle.manifest
    files = {name: digest for name, digest in manifest.files.items() if name != "model_fp16.onnx"}
    write_manifest(bench.bundle.path, msgspec.structs.replace(manifest, files=files))
    bench.bundle = load_bundle(bench.bundle.path)


def another_model(bench: Bench) -> None:
    bench.bundle = tiny_bundle(bench.bundle.path, seed=1)


def engine_of_another_gpu(bench: Bench) -> None:
    bench.machine.sm = (11, 0)


def engine_of_another_tensorrt(bench: Bench) -> None:
    bench.machine.tensorrt = "10.7.0"
    bench.patch.setitem(sys.modules, "tensorrt", tensorrt_module(bench.machine))


def engine_cut_short(bench: Bench) -> None:
    bench.engine.write_bytes(bench.engine.read_bytes()[:-1])


def engine_without_note(bench: Bench) -> None:
    bench.engine.with_suffix(".json").unlink()


def engine_of_another_kind(bench: Bench) -> None:
    (key,) = EngineCache().kept()
    EngineCache().store(key, b"whole, and no engine")


def engine_with_other_tensors(bench: Bench) -> None:
    """As an older exporter would have named them; the hash in the key rules it out, so the file is made up."""
    (key,) = EngineCache().kept()
    plan = json.loads(bench.engine.read_bytes().removeprefix(MAGIC))
    model = onnx.load_from_string(base64.b64decode(plan["graph"]))
    (logits,) = (each for each in model.graph.output if each.name == "logits")
    model.graph.node.append(onnx.helper.make_node("Identity", ["logits"], ["scores"]))
    logits.name = "scores"
    plan["graph"] = base64.b64encode(model.SerializeToString()).decode()
    EngineCache().store(key, MAGIC + json.dumps(plan).encode())


def engine_of_other_sizes(bench: Bench) -> None:
    """The engine does not say how long this tail is before it knows its inputs; then it is another than the model's."""
    (key,) = EngineCache().kept()
    plan = json.loads(bench.engine.read_bytes().removeprefix(MAGIC))
    model = onnx.load_from_string(base64.b64decode(plan["graph"]))
    (tail,) = (each for each in model.graph.output if each.name == "stem_out")
    tail.type.tensor_type.shape.dim[2].dim_value += 1
    plan["graph"] = base64.b64encode(model.SerializeToString()).decode()
    EngineCache().store(key, MAGIC + json.dumps(plan).encode())


def no_memory(bench: Bench) -> None:
    bench.machine.contexts_left = 1


def shared_cache(bench: Bench) -> None:
    bench.cache.chmod(0o777)


def unreadable_cache(bench: Bench) -> None:
    path = bench.engine
    path.unlink()
    path.mkdir()


BUILD = "; build it on this device: ecg-export tensorrt"
SCENARIOS: list[tuple[Callable[[Bench], None], str]] = [
    (
        no_tensorrt,
        r"import of tensorrt halted; .*; on a Jetson apt install .*, elsewhere pip install tensorrt-cu12 \(or -cu13\)",
    ),
    (old_tensorrt, r"TensorRT 8.6.2 is older than 10.3"),
    (no_pycuda, r"import of pycuda.driver halted; .*; pip install 'ecg-edge\[tensorrt\]'"),
    (no_driver, r"libcuda.so.1: cannot open shared object file: No such file or directory; install the NVIDIA driver"),
    (no_gpu, r"the GPU cannot be used: cuInit failed: no CUDA-capable device is detected"),
    (old_driver, r"TensorRT does not start: CUDA initialization failure with error: 35"),
    (no_float16_graph, r"the bundle has no fp16 graph \(model_fp16.onnx\); export it again, or add .*"),
    (another_model, rf"no engine for SM 8.7, TensorRT 10.3.0, fp32 in \S+engines{BUILD}"),
    (engine_of_another_gpu, rf"no engine for SM 11.0, .* \(there is one for SM 8.7 with TensorRT 10.3.0\){BUILD}"),
    (engine_of_another_tensorrt, rf"no engine for SM 8.7, TensorRT 10.7.0, .* with TensorRT 10.3.0\){BUILD}"),
    (engine_cut_short, rf"engine fp32-sm8.7-trt10.3.0-\w+.engine: is damaged: its SHA-256 is not .*{BUILD}"),
    (engine_without_note, rf"engine fp32-\S+: the note beside it is missing or says something else{BUILD}"),
    (engine_of_another_kind, rf"engine fp32-\S+: does not load: Serialization .*: magic tag does not match{BUILD}"),
    (engine_with_other_tensors, r"the engine does not fit the model: tensors logits, scores; build it again"),
    (engine_of_other_sizes, r"the engine gives stem_out of shape \(1, 12, 5\), not \(1, 12, 4\); build it again"),
    (no_memory, r"TensorRT cannot make an execution context: Error Code 2: OutOfMemory \(requested 1234 bytes\)"),
    (shared_cache, r"engine cache \S+engines may be written by others \(mode 777\); chmod go-w it"),
    (unreadable_cache, rf"engine fp32-\S+: cannot be read: Is a directory{BUILD}"),
]


@pytest.mark.parametrize(("scenario", "line"), SCENARIOS, ids=[scenario.__name__ for scenario, _ in SCENARIOS])
def test_what_is_missing_is_said_in_one_line_and_the_cpu_takes_over(
    bench: Bench, caplog: pytest.LogCaptureFixture, scenario: Callable[[Bench], None], line: str
) -> None:
    scenario(bench)
    with pytest.raises(RuntimeUnavailableError, match=rf"^runtime 'tensorrt' is not available: {line}$"):
        TensorRtRuntime(bench.bundle)
    caplog.clear()
    instead = open_or_fall_back(bench.bundle, "tensorrt")
    assert instead.name != "tensorrt"
    assert np.isfinite(instead.step([instead.open_slot()], np.zeros((1, 100, 12), dtype=np.float32))).all()
    (warning,) = caplog.records
    assert warning.levelno == logging.WARNING
    assert re.fullmatch(
        rf"runtime 'tensorrt' is not available: {line}; {instead.name} runs instead", warning.getMessage()
    )


@pytest.mark.parametrize(("scenario", "line"), SCENARIOS, ids=[scenario.__name__ for scenario, _ in SCENARIOS])
def test_the_doctor_says_the_same_and_what_runs_meanwhile(
    bench: Bench, scenario: Callable[[Bench], None], line: str
) -> None:
    scenario(bench)
    asked, instead = check_of(bench, "tensorrt"), open_or_fall_back(bench.bundle, "tensorrt").name
    assert re.fullmatch(line, asked.detail)
    assert asked.outcome == "warn"
    assert instead.startswith(asked.advice.removeprefix("until then the daemon runs "))
    unasked = check_of(bench, "auto")
    assert re.fullmatch(f"not asked for; {line}", unasked.detail)
    assert unasked.outcome == "ok"


def test_the_doctor_finds_an_engine_that_fits(bench: Bench) -> None:
    assert check_of(bench, "tensorrt") == Check("runtime tensorrt", "ok", "opens the bundle")


def check_of(bench: Bench, configured: str) -> Check:
    return next(check for check in check_runtimes(bench.bundle, configured) if check.name == "runtime tensorrt")


def test_a_runtime_that_works_is_opened_without_a_word_and_an_unknown_one_is_an_error(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    bundle = tiny_bundle(tmp_path / "bundle")
    assert open_or_fall_back(bundle, "onnxruntime").name == "onnxruntime"
    assert open_or_fall_back(bundle, AUTO).name != "tensorrt"
    assert not caplog.records
    with pytest.raises(RuntimeUnavailableError, match="no such runtime"):
        open_or_fall_back(bundle, "abacus")


def test_this_machine_s_own_answer_is_one_line(tmp_path: Path) -> None:
    """Nothing is pretended here."""
    if importlib.util.find_spec("tensorrt") is not None:
        pytest.skip("TensorRT is installed here")
    with pytest.raises(RuntimeUnavailableError, match=r"^runtime 'tensorrt' is not available: .*on a Jetson.*$"):
        TensorRtRuntime(tiny_bundle(tmp_path / "bundle"))


def test_importing_the_runtime_loads_neither_tensorrt_nor_pycuda() -> None:
    code = "import sys, edge.runtime.select; sys.exit(bool({'tensorrt', 'pycuda', 'torch', 'onnx'} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def _driver_missing(name: str) -> object:
    raise ImportError("libcuda.so.1: cannot open shared object file: No such file or directory")
