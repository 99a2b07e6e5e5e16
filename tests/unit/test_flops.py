"""Operations of a record, counted against what pencil and paper give."""

from __future__ import annotations

import pytest

from tests.small_networks import small_network
from trainer.compare.flops import record_flops, scan_flops
from trainer.kinds import build_model
from trainer.model import ModelConfig

RATE_HZ, LEADS, CLASSES, WHOLE = 100, 12, 5, 1000


def test_a_small_cnn_is_the_sum_of_its_layers():
    by_hand = (
        2 * 500 * 32 * (LEADS * 7)  # 1,000 samples at stride 2
        + 2 * 250 * 64 * (32 * 5)  # again, then pooled to 125
        + 2 * 125 * 128 * (64 * 3)
        + 2 * (128 * 64 + 64 * CLASSES)
    )
    assert record_flops(small_network("simple-cnn-1d"), RATE_HZ, LEADS, WHOLE) == by_hand


def test_crops_count_as_often_as_they_are_looked_at():
    network = small_network("simple-cnn-1d")
    head = 2 * (128 * 64 + 64 * CLASSES)
    whole, crops = (record_flops(network, RATE_HZ, LEADS, samples) for samples in (WHOLE, WHOLE // 2))
    assert crops - 3 * head == pytest.approx(1.5 * (whole - head), rel=0.01)  # three halves, each with the head


def test_a_mamba_is_the_sum_of_its_projections_and_its_scan():
    m, n, k, stride, kernel = 16, 8, 4, 4, 8
    d, rank, frames = 2 * m, 1, WHOLE // stride
    config = ModelConfig(d_model=m, n_layers=2, d_state=n, d_conv=k, stem_kernel=kernel, stride=stride)
    block = 2 * (m * 2 * d + d * k + d * (rank + 2 * n) + rank * d + d * m) + d * (7 * n + 1)
    by_hand = frames * (2 * m * LEADS * kernel + config.n_layers * block) + 2 * 2 * m * CLASSES
    assert config.pooling == "mean+max"
    assert record_flops(build_model("mamba", config), RATE_HZ, LEADS, WHOLE) == by_hand
    assert scan_flops(3, 250, d, n) == 3 * 250 * d * (7 * n + 1)


def test_an_lstm_is_four_gates_from_the_input_and_the_state():
    d, hidden = 16, 128
    layers = 2 * WHOLE * (4 * d * (LEADS + d) + 4 * d * (d + d))
    by_hand = layers + 2 * (3 * d * hidden + hidden * CLASSES)
    assert record_flops(small_network("lstm"), RATE_HZ, LEADS, WHOLE) == by_hand
