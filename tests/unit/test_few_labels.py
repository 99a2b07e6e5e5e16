"""Training with the labels of few patients, and with a network that stays as it is but for its last layer."""

from __future__ import annotations

import msgspec
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from edge.runtime.manifest import SignalSpec
from tests.small_networks import small_config
from tests.tiny_ptbxl import Row, write_ptbxl
from trainer.batches import batches, batches_per_epoch
from trainer.checkpoint import load_checkpoint
from trainer.data import Split
from trainer.frozen import settle
from trainer.kinds import build_model
from trainer.label_share import of_share
from trainer.preset import Preset, SignalPreset, TrainingPreset, load_preset
from trainer.ptbxl import open_ptbxl
from trainer.run_folder import BEST_NAME
from trainer.targets import with_targets
from trainer.train import Trainer
from trainer.transfer import HEAD

SIGNAL = SignalSpec(
    rate_hz=100, band_hz=(0.05, 40.0), sos=[(1.0, 0.0, 0.0, 1.0, 0.0, 0.0)], mean_mv=[0.0] * 12, std_mv=[0.2] * 12
)
FROZEN = TrainingPreset(frozen=True, epochs=3, batch_size=8, learning_rate=1e-2, average_decay=0.9, crop_s=2.5)
PRESETS = {
    "ssl-encoder": Preset("e", "ssl-encoder", small_config("ssl-encoder", width=8), SignalPreset(), FROZEN),
    "mamba": msgspec.structs.replace(load_preset("tiny"), training=FROZEN),
}


pytestmark = pytest.mark.usefixtures("one_thread")


def split(records=20):
    rng = np.random.default_rng(0)
    labels = np.eye(5, dtype=np.float32)[np.arange(records) % 5]
    return Split(rng.standard_normal((records, 1000, 12), dtype=np.float32) * (1 + labels[:, None, :1]), labels)


# Shares of labels


@given(
    patients=st.lists(st.integers(1, 40), min_size=1, max_size=80),
    shares=st.tuples(st.floats(0.01, 1.0), st.floats(0.01, 1.0)).map(sorted),
    seed=st.integers(0, 3),
)
def test_shares_are_of_patients_and_a_smaller_one_is_part_of_a_larger_one(patients, shares, seed):
    of_record = np.array(patients)
    small, large = (of_share(of_record, share, seed) for share in shares)
    for chosen in (small, large):
        assert not set(of_record[chosen]) & set(of_record[~chosen])
    assert (large | ~small).all()
    assert 1 <= len(set(of_record[small])) <= 1 + shares[0] * len(set(patients))
    assert of_share(of_record, 1.0, seed).all()


def test_one_seed_chooses_the_same_patients_and_another_one_others():
    patients = np.arange(100)
    first, again, other = (of_share(patients, 0.1, seed) for seed in (5, 5, 6))
    assert first.sum() == 10
    assert np.array_equal(first, again)
    assert not np.array_equal(first, other)


def test_training_targets_follow_the_share_of_the_recipe(tmp_path):
    rows = [Row(i, "{'NORM': 100.0}", 1, 1000 + i // 2) for i in range(1, 9)]
    data = open_ptbxl(write_ptbxl(tmp_path / "ptb-xl", rows), tmp_path / "cache")
    everything = Split(np.arange(8, dtype=np.float32)[:, None, None], data.labels)
    recipe = TrainingPreset(label_share=0.4, statements_weight=1.0)
    few = with_targets(everything, data, np.arange(8), recipe, [], seed=0)
    chosen = few.signals[:, 0, 0].astype(int)
    assert 2 <= len(few) <= 4  # two of five patients; the first and the last have one record
    assert len(few.targets) == len(few.labels) == len(few)
    assert len(set(data.patient_ids[chosen])) == 2
    assert len(with_targets(everything, data, np.arange(8), TrainingPreset(), [], seed=0)) == 8


def test_an_epoch_of_several_passes_goes_through_the_records_so_often_in_new_order():
    recipe = TrainingPreset(batch_size=4, passes=3, crop_s=10.0)
    signals = np.tile(np.arange(8, dtype=np.float32)[:, None, None], (1, 1000, 1))
    epoch = list(batches(signals, np.zeros((8, 1), np.float32), recipe, SIGNAL, 1, np.random.default_rng(0)))
    assert len(epoch) == batches_per_epoch(8, recipe) == 6
    seen = torch.cat([batch.crops[:, 0, 0] for batch in epoch]).reshape(3, 8).int().tolist()
    assert all(sorted(of_pass) == list(range(8)) for of_pass in seen)
    assert seen[0] != seen[1]


# Frozen encoders


@pytest.mark.parametrize("kind", PRESETS)
def test_a_frozen_encoder_stays_frozen_and_its_head_learns(kind, tmp_path):
    trainer = Trainer(PRESETS[kind], SIGNAL, split(), split(), tmp_path, 0, {})
    before = {name: tensor.clone() for name, tensor in trainer.model.state_dict().items()}
    trainer.run()
    after = load_checkpoint(tmp_path / BEST_NAME).model.state_dict()
    for name, tensor in after.items():
        assert torch.equal(tensor, before[name]) != name.startswith(HEAD), name
    assert trainer.history[-1].loss < trainer.history[0].loss


def test_a_frozen_start_keeps_what_it_brings_statistics_too(tmp_path):
    preset = PRESETS["ssl-encoder"]
    Trainer(preset, SIGNAL, split(), split(), tmp_path / "first", 0, {}).run()
    start = tmp_path / "first" / BEST_NAME
    other = Split(5 * split().signals, split().labels)
    Trainer(preset, SIGNAL, other, other, tmp_path / "second", 1, {"init": {}}, start).run()
    first, second = (load_checkpoint(tmp_path / run / BEST_NAME).model.state_dict() for run in ("first", "second"))
    assert all(torch.equal(first[name], second[name]) for name in first if not name.startswith(HEAD))


def test_random_features_do_not_fade_once_settled():
    torch.manual_seed(0)
    network = build_model("ssl-encoder", PRESETS["ssl-encoder"].model).eval()
    signals = split(65).signals
    faded = network.features(torch.from_numpy(signals)).std()
    settle(network, signals, 1000)
    assert network.features(torch.from_numpy(signals)).std() > 5 * faded
    assert not network.training
