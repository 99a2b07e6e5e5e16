"""A windowed network reads all of a window: half-overlapping crops, and one that ends with it where they do not."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import onnxruntime
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from export.bundle import graphs_of
from tests.small_networks import ecg, small_network
from tests.windowed_bundles import windowed_checkpoint
from trainer.compare.flops import record_flops
from trainer.networks.windowed import Windowed

WINDOW = 1000


class Reading(nn.Module):
    """Stands for a network whose logits are the first and the last sample of a crop and their number."""

    def forward(self, x):
        return torch.stack([x[:, 0, 0], x[:, -1, 0], torch.full((len(x),), float(x.shape[1]))], 1)


def crops_of(crop_samples, window=WINDOW):
    """Where the crops of a window begin and end, by what is averaged."""
    seen = []
    network = Reading()
    network.register_forward_hook(lambda _, inputs, output: seen.append(output))
    ramp = torch.arange(float(window))[None, :, None].repeat(2, 1, 12)
    averaged = Windowed(network, crop_samples)(ramp)
    (logits,) = seen
    each = logits.unflatten(0, (2, -1))
    torch.testing.assert_close(averaged, each.mean(1))
    return each[0, :, :2].int().tolist()


@given(crop_samples=st.integers(1, WINDOW), window=st.integers(1, WINDOW))
def test_every_sample_of_a_window_is_read_the_newest_too(crop_samples, window):
    crops = crops_of(crop_samples, window)
    assert crops[0][0] == 0
    assert crops[-1][1] == window - 1
    assert all(last - first + 1 == min(crop_samples, window) for first, last in crops)
    assert all(later <= last + 1 for (_, last), (later, _) in pairwise(crops))
    assert len({first for first, _ in crops}) == len(crops)


@pytest.mark.parametrize("crop_samples", [250, 500, 1000])
def test_crops_that_fill_the_window_are_those_that_overlap_by_half(crop_samples):
    starts = [first for first, _ in crops_of(crop_samples)]
    assert starts == list(range(0, WINDOW - crop_samples + 1, crop_samples // 2))


@pytest.mark.parametrize("crop_samples", [300, 600, 700, 800, 900])
def test_crops_that_do_not_are_joined_by_one_that_ends_with_it(crop_samples):
    starts = [first for first, _ in crops_of(crop_samples)]
    assert starts == [*range(0, WINDOW - crop_samples, crop_samples // 2), WINDOW - crop_samples]


def test_the_exported_graph_reads_them_too():
    checkpoint = windowed_checkpoint("simple-cnn-1d", {"crop_s": 3.0})
    graph = graphs_of(checkpoint)["model.onnx"].SerializeToString()
    session = onnxruntime.InferenceSession(graph, providers=["CPUExecutionProvider"])
    for seed, batch in ((1, 1), (2, 3)):
        x = ecg(batch, WINDOW, seed)
        with torch.inference_mode():
            expected = Windowed(checkpoint.model, 300)(x).numpy()
        np.testing.assert_allclose(session.run(["logits"], {"x": x.numpy()})[0], expected, rtol=0, atol=1e-4)


def test_operations_are_counted_of_all_that_is_read():
    network = small_network("simple-cnn-1d")
    one, all_of_them = (record_flops(network, 100, 12, samples) for samples in (WINDOW, 300))
    head = 2 * (128 * 64 + 64 * 5)
    assert all_of_them - 6 * head == pytest.approx(6 * 0.3 * (one - head), rel=0.02)
