"""`ecg-export tensorrt` on a GPU that is not there: what it builds, what it finds, and what it says where it cannot."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import msgspec
import onnx
import pytest

from edge.errors import RuntimeUnavailableError
from edge.runtime.bundle import Bundle, sha256_of, write_manifest
from edge.runtime.manifest import ONNX_NAME
from edge.runtime.tensorrt.cache import EngineCache
from edge.runtime.tensorrt.device import CudaDevice
from edge.runtime.tensorrt.engine import Engines, import_tensorrt
from edge.runtime.tensorrt.runtime import TensorRtRuntime
from export.cli import main
from tests.fake_gpu.machine import Machine
from tests.fake_gpu.plug_in import plug_in
from tests.tiny_bundle import tiny_bundle
from trainer.calibration import identity

WITHOUT_TORCH = """
import sys
for absent in ("torch", "onnx", "sklearn"):
    sys.modules[absent] = None
from export.cli import main
sys.exit(main(sys.argv[1:]))
"""


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return tiny_bundle(tmp_path_factory.mktemp("bundles") / "bundle")


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Machine:
    machine = Machine()
    plug_in(monkeypatch, machine, tmp_path / "engines")
    return machine


def test_it_builds_the_engine_that_the_daemon_then_finds(
    gpu: Machine, bundle: Bundle, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["tensorrt", str(bundle.path), "--target", "orin", "--json"]) == 0
    result = json.loads(capsys.readouterr().out)
    assert result["built"] is True
    assert result["key"]["sm"] == "8.7"
    assert result["bytes"] == Path(result["engine"]).stat().st_size
    TensorRtRuntime(bundle)
    assert gpu.builds == 1


def test_it_builds_once_unless_told_otherwise_and_keeps_what_the_build_measured(
    gpu: Machine, bundle: Bundle, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["tensorrt", str(bundle.path), "--engine-cache", str(tmp_path / "elsewhere")]
    for extra, said, builds in ([], "built", 1), ([], "found", 1), (["--rebuild"], "built", 2):
        assert main([*arguments, *extra]) == 0
        assert capsys.readouterr().err.splitlines()[-1].startswith(said)
        assert gpu.builds == builds
    cache = EngineCache(tmp_path / "elsewhere")
    (key,) = cache.kept()
    assert (key.sm, key.tensorrt, key.precision) == ("8.7", "10.3.0", "fp32")
    assert cache.load_timings(key) == b"timings"


@pytest.mark.parametrize("content", [b"", b"whole, and no engine"])
def test_an_engine_that_is_damaged_or_does_not_load_is_built_again(
    gpu: Machine, bundle: Bundle, content: bytes
) -> None:
    assert main(["tensorrt", str(bundle.path)]) == 0
    (key,) = EngineCache().kept()
    EngineCache().store(key, content) if content else EngineCache().path(key).write_bytes(content)
    assert main(["tensorrt", str(bundle.path)]) == 0
    assert gpu.builds == 2
    TensorRtRuntime(bundle)


def test_a_cache_that_cannot_be_written_is_an_error(
    gpu: Machine, bundle: Bundle, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").write_text("in the way")
    assert main(["tensorrt", str(bundle.path), "--engine-cache", str(tmp_path / "file" / "engines")]) == 2
    assert "cannot be written" in capsys.readouterr().err.splitlines()[-1]


def test_a_cache_that_others_may_write_into_is_an_error_before_anything_is_built(
    gpu: Machine, bundle: Bundle, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "engines").mkdir(mode=0o700)
    (tmp_path / "engines").chmod(0o777)
    assert main(["tensorrt", str(bundle.path)]) == 2
    last = capsys.readouterr().err.splitlines()[-1]
    assert last.endswith("engines may be written by others (mode 777); chmod go-w it")
    assert gpu.builds == 0


def test_an_engine_that_does_not_fit_is_never_called_built(
    gpu: Machine, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The manifest says something else than the graph, which ONNX Runtime would refuse."""
    bundle = tiny_bundle(tmp_path / "bundle")
    classes = bundle.manifest.classes
    calibration = identity(len(classes) - 1)
    points = {name: bundle.manifest.operating_points[name] for name in classes[1:]}
    fewer = msgspec.structs.replace(
        bundle.manifest, classes=classes[1:], calibration=calibration, operating_points=points
    )
    write_manifest(bundle.path, fewer)
    assert main(["tensorrt", str(bundle.path)]) == 2
    last = capsys.readouterr().err.splitlines()[-1]
    assert last.endswith("the engine just built does not fit the model: tensors logits")
    assert not EngineCache().kept()


def test_a_graph_that_tensorrt_does_not_parse_is_told_in_one_line_and_nothing_is_kept(
    gpu: Machine, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bundle = tiny_bundle(tmp_path / "bundle")
    unknown = onnx.helper.make_node("Oscillate", ["x"], ["y"])
    bundle.onnx_path.write_bytes(onnx.ModelProto(graph=onnx.GraphProto(node=[unknown])).SerializeToString())
    files = bundle.manifest.files | {ONNX_NAME: sha256_of(bundle.path, ONNX_NAME)}
    write_manifest(bundle.path, msgspec.structs.replace(bundle.manifest, files=files))
    assert main(["tensorrt", str(bundle.path)]) == 2
    last = capsys.readouterr().err.splitlines()[-1]
    assert last.endswith("the engine cannot be built: cannot be parsed: ValidationError")
    assert not EngineCache().kept()


def test_a_graph_that_has_changed_since_the_bundle_was_opened_is_refused(gpu: Machine, tmp_path: Path) -> None:
    bundle, device = tiny_bundle(tmp_path / "bundle"), CudaDevice()
    bundle.onnx_path.write_bytes(b"another model")
    with device.current():
        engines = Engines(import_tensorrt(), bundle, device.facts, "fp32", EngineCache())
        with pytest.raises(RuntimeUnavailableError, match=r"model.onnx has changed since .*; refused"):
            engines.build()


@pytest.mark.parametrize(
    ("target", "sm", "precision"),
    [("t4", (7, 5), "fp16"), ("orin", (8, 7), "fp32"), ("thor", (11, 0), "fp32"), ("current", (9, 0), "fp32")],
)
def test_each_target_has_its_usual_precision(
    gpu: Machine, bundle: Bundle, capsys: pytest.CaptureFixture[str], target: str, sm: tuple[int, int], precision: str
) -> None:
    gpu.sm = sm
    assert main(["tensorrt", str(bundle.path), "--target", target, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["key"]["precision"] == precision


def test_the_daemon_takes_what_was_built_and_of_two_engines_what_suits_the_gpu(gpu: Machine, bundle: Bundle) -> None:
    for built, taken in (("fp16", "fp16"), ("fp32", "fp32")):
        assert main(["tensorrt", str(bundle.path), "--precision", built]) == 0
        assert TensorRtRuntime(bundle).precision == taken
    assert TensorRtRuntime(bundle, precision="fp16").precision == "fp16"


def test_a_device_that_is_not_the_target_is_told_so_and_nothing_is_built(
    gpu: Machine, bundle: Bundle, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["tensorrt", str(bundle.path), "--target", "thor"]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "thor means SM 10.1 or SM 11.0, and this is Orin with SM 8.7" in line
    assert gpu.builds == 0


def test_float32_on_a_t4_is_tried_and_the_refusal_says_what_to_take(
    gpu: Machine, bundle: Bundle, capsys: pytest.CaptureFixture[str]
) -> None:
    gpu.sm, gpu.float32_products = (7, 5), False
    assert main(["tensorrt", str(bundle.path), "--target", "t4", "--precision", "fp32"]) == 2
    assert "take --precision fp16" in capsys.readouterr().err.splitlines()[-1]
    assert main(["tensorrt", str(bundle.path), "--target", "t4", "--precision", "fp16"]) == 0


def test_without_pytorch_the_command_is_there_and_the_others_say_what_they_need(bundle: Bundle) -> None:
    """A device has neither PyTorch nor onnx; without a GPU the command fails too, but for its own reason."""
    tensorrt = _without_torch("tensorrt", str(bundle.path))
    verify = _without_torch("verify", "--json", str(bundle.path))
    assert (tensorrt.returncode, verify.returncode) == (2, 2)
    assert "runtime 'tensorrt' is not available" in tensorrt.stderr
    assert "pip install 'ecg-edge[export]'" in verify.stderr
    assert all(len(run.stderr.splitlines()) == 1 for run in (tensorrt, verify))


def _without_torch(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", WITHOUT_TORCH, *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False)
