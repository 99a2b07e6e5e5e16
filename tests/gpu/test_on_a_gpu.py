"""What only a GPU can tell: the shipped PTX, recorded graphs, slots in its memory, and TensorRT itself where it is."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import numpy as np
import pytest

from edge.errors import RuntimeUnavailableError
from edge.runtime.bundle import load_bundle
from edge.runtime.onnx import OnnxRuntime
from edge.runtime.tensorrt.cache import FOLDER_VARIABLE
from edge.runtime.tensorrt.device import CudaDevice
from edge.runtime.tensorrt.graph import load_driver, record
from edge.runtime.tensorrt.rows import RowMover
from edge.runtime.tensorrt.runtime import TensorRtRuntime
from edge.runtime.tensorrt.slots import INITIAL_SLOTS, CudaSlots, StateRows
from export.cli import main
from export.verify import TOLERANCES

BATCH, COLUMNS, SLOTS = 16, 1000, 40


@pytest.fixture(scope="module")
def device() -> CudaDevice:
    try:
        return CudaDevice()
    except RuntimeUnavailableError as error:
        pytest.skip(f"no GPU to run on: {error.why}")


def test_the_shipped_ptx_gathers_and_scatters_rows_and_leaves_padding_alone(device: CudaDevice) -> None:
    rng = np.random.default_rng(0)
    table = rng.standard_normal((SLOTS, COLUMNS), dtype=np.float32)
    slots = np.full(BATCH, -1, dtype=np.int32)
    slots[:10] = rng.permutation(SLOTS)[:10]
    with device.current():
        mover = RowMover(device)
        on_gpu, buffer = device.upload(table), device.upload(np.zeros(BATCH * COLUMNS, dtype=np.float32))
        layout = [device.upload(each) for each in (slots, np.arange(COLUMNS, dtype=np.int32), _strides())]
        arguments = (int(on_gpu), int(buffer), *(int(each) for each in layout))
        mover.gather(BATCH, COLUMNS, arguments)
        gathered = download(device, int(buffer), (BATCH, COLUMNS))
        np.testing.assert_array_equal(gathered[:10], table[slots[:10]])
        assert not gathered[10:].any()

        doubled = device.upload(2 * gathered)
        mover.scatter(BATCH, COLUMNS, (int(on_gpu), int(doubled), *arguments[2:]))
        expected = table.copy()
        expected[slots[:10]] *= 2
        np.testing.assert_array_equal(download(device, int(on_gpu), table.shape), expected)


def test_recorded_work_is_done_when_it_is_replayed_and_not_before(device: CudaDevice) -> None:
    with device.current():
        source, target = device.pinned(64, np.float32), device.allocate(64)
        source[:] = 1.0
        device.copy_in(int(target), source)
        device.wait()

        def work() -> bool:
            device.copy_in(int(target), source)
            return True

        graph = record(load_driver(), device.stream.handle, work)
        source[:] = 2.0
        assert (download(device, int(target), (64,)) == 1.0).all()
        graph.launch(device.stream.handle)
        assert (download(device, int(target), (64,)) == 2.0).all()


def test_states_survive_the_growth_of_the_table(device: CudaDevice) -> None:
    tensors = load_bundle().manifest.state
    with device.current():
        slots = CudaSlots(device, StateRows(tensors))
        first = slots.open()
        state = {t.name: np.random.default_rng(1).standard_normal(t.shape).astype(np.float32) for t in tensors}
        slots.load(first, state)
        others = [slots.open() for _ in range(2 * INITIAL_SLOTS)]
        for name, tensor in slots.save(first).items():
            np.testing.assert_array_equal(tensor, state[name])
        assert not slots.save(others[-1])["pool_count"].any()


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_tensorrt_equals_onnxruntime(
    device: CudaDevice, precision: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if importlib.util.find_spec("tensorrt") is None:
        pytest.skip("TensorRT is not installed here")
    monkeypatch.setenv(FOLDER_VARIABLE, str(tmp_path))
    bundle = load_bundle()
    assert main(["tensorrt", "--precision", precision]) == 0
    ours, theirs = TensorRtRuntime(bundle, precision=precision), OnnxRuntime(bundle)
    rng = np.random.default_rng(2)
    for streams in (1, 7, 40):
        mine, other = ([runtime.open_slot() for _ in range(streams)] for runtime in (ours, theirs))
        for _ in range(12):
            frames = rng.standard_normal((streams, bundle.manifest.hop_samples, 12), dtype=np.float32)
            got, expected = ours.step(mine, frames), theirs.step(other, frames)
            np.testing.assert_allclose(got, expected, rtol=0, atol=TOLERANCES[precision])


def download(device: CudaDevice, address: int, shape: tuple[int, ...]) -> np.ndarray:
    host = device.pinned(int(np.prod(shape)), np.float32)
    device.copy_out(host, address)
    device.wait()
    return host.reshape(shape).copy()


def _strides() -> np.ndarray:
    return np.full(COLUMNS, COLUMNS, dtype=np.int32)
