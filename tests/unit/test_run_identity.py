"""Going on with a run: only with the very same one, but for what an older checkpoint does not say."""

from __future__ import annotations

import dataclasses

import msgspec
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from edge.runtime.manifest import SignalSpec
from tests.small_networks import small_config
from tests.tiny_ptbxl import rows_of, write_ptbxl
from trainer.cli import main
from trainer.data import Split
from trainer.identity import differences, run_identity
from trainer.objective import LEFT_ALONE_BEFORE, parameter_groups
from trainer.preset import Preset, SignalPreset, TrainingPreset, load_preset
from trainer.pretraining.plans import SimClrPlan
from trainer.pretraining.run import Pretraining
from trainer.run_folder import LAST_NAME, RunMismatchError
from trainer.train import Trainer

SIGNAL = SignalSpec(100, (0.05, 40.0), [(1.0, 0.0, 0.0, 1.0, 0.0, 0.0)], mean_mv=[0.0] * 12, std_mv=[0.2] * 12)
RECIPE = TrainingPreset(epochs=2, batch_size=4, crop_s=2.5, average_decay=0.9)
TINY = msgspec.structs.replace(load_preset("tiny"), training=RECIPE)
S4 = Preset("small-s4", "s4-ecg", small_config("s4-ecg", n_layers=1), SignalPreset(), RECIPE)
NEW_IN_A_CHECKPOINT = ("identity", "left_alone")

pytestmark = pytest.mark.usefixtures("one_thread")


def split(first_id=1, records=8, **changes):
    """Noise with labels, its records numbered from some id on."""
    signals = np.random.default_rng(0).standard_normal((records, 1000, 12), dtype=np.float32)
    labels = np.eye(5, dtype=np.float32)[np.arange(records) % 5]
    return dataclasses.replace(Split(signals, labels, ecg_ids=np.arange(first_id, first_id + records)), **changes)


def flipped(labels):
    turned = labels.copy()
    turned[0, 0] = 1 - turned[0, 0]
    return turned


def trainer_in(out, preset=TINY, seed=0, train=None, tune=None):
    return Trainer(preset, SIGNAL, train or split(), tune or split(101), out, seed, {})


def interrupted(out, preset=TINY):
    """Leave a run of one epoch of two."""
    trainer = trainer_in(out, preset)
    trainer.out.mkdir()
    trainer._epoch(lambda: None)
    return trainer


def without(path, *names):
    """Write a checkpoint as it was before it had these."""
    state = torch.load(path, weights_only=True)
    torch.save({name: value for name, value in state.items() if name not in names}, path)


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    out = tmp_path_factory.mktemp("run")
    trainer_in(out).run()
    return out


@pytest.mark.parametrize(
    ("other", "named"),
    [
        ({"seed": 1}, r"another seed \(0, not 1\)"),
        ({"train": split(2)}, "other records to train on"),
        ({"tune": split(102)}, "other records to tune on"),
        ({"train": split(targets=0.5 * split().labels)}, "other targets"),
        ({"train": split(labels=flipped(split().labels))}, "other targets"),
        ({"tune": split(101, labels=flipped(split().labels))}, "other labels to tune on"),
        ({"seed": 3, "tune": split(102)}, r"another seed \(0, not 3\) and other records to tune on"),
    ],
)
def test_another_run_is_not_taken_for_the_one_that_stands(finished, other, named):
    with pytest.raises(RunMismatchError, match=named):
        trainer_in(finished, **other).run()


def test_the_very_same_run_is_and_so_is_what_an_older_checkpoint_says_nothing_against(finished, tmp_path):
    assert trainer_in(finished).run().epoch in (1, 2)
    interrupted(tmp_path / "older")
    without(tmp_path / "older" / LAST_NAME, *NEW_IN_A_CHECKPOINT)
    again = trainer_in(tmp_path / "older", seed=1, tune=split(102))
    again.run()
    assert [epoch.epoch for epoch in again.history] == [1, 2]
    with pytest.raises(RunMismatchError, match="other records"):
        trainer_in(tmp_path / "older", train=split(records=7)).run()


@given(
    seeds=st.tuples(st.integers(0, 3), st.integers(0, 3)),
    ids=st.tuples(st.integers(1, 3), st.integers(1, 3)),
    labels=st.tuples(st.booleans(), st.booleans()),
    classes=st.tuples(st.sampled_from(["ab", "ba"]), st.sampled_from(["ab", "ba"])),
)
def test_two_runs_differ_in_what_is_named_or_not_at_all(seeds, ids, labels, classes):
    def identity(k):
        aims = np.full((2, 2), labels[k], np.float32)
        empty = np.zeros((2, 0, 12), np.float32)
        records = Split(empty, aims, classes=tuple(classes[k]), ecg_ids=np.arange(ids[k], ids[k] + 2))
        return run_identity(seeds[k], records, records)

    found = list(differences(identity(0), identity(1)))
    same = seeds[0] == seeds[1], ids[0] == ids[1], labels[0] == labels[1] and classes[0] == classes[1]
    assert bool(found) == (not all(same))
    assert any("seed" in words for words in found) == (not same[0])
    assert any("records" in words for words in found) == (not same[1])
    assert any("targets" in words for words in found) == (same[1] and not same[2])


def test_a_state_space_network_is_gone_on_with_as_it_was_begun(tmp_path):
    whole = trainer_in(tmp_path / "whole", S4)
    whole._begin_optimiser(LEFT_ALONE_BEFORE)
    whole.run()
    begun = trainer_in(tmp_path / "cut", S4)
    begun._begin_optimiser(LEFT_ALONE_BEFORE)
    begun.out.mkdir()
    begun._epoch(lambda: None)
    without(tmp_path / "cut" / LAST_NAME, *NEW_IN_A_CHECKPOINT)
    cut = trainer_in(tmp_path / "cut", S4)
    cut.run()
    for name, tensor in whole.model.state_dict().items():
        assert torch.equal(tensor, cut.model.state_dict()[name]), name


def test_weight_decay_leaves_the_dynamics_of_a_state_space_network_alone():
    model = trainer_in(None, S4).model
    decayed, kept = ({id(parameter) for parameter in group["params"]} for group in parameter_groups(model, 0.1))
    of = {name.rsplit(".", 1)[1]: id(parameter) for name, parameter in model.named_parameters() if "ssm" in name}
    assert {name for name, parameter in of.items() if parameter in decayed} == {"C"}
    assert {name for name, parameter in of.items() if parameter in kept} == {"A_log", "A_imag", "log_dt"}


def test_a_pre_training_on_other_records_is_refused_and_an_older_one_goes_on(tmp_path):
    def run(train):
        plan = SimClrPlan(epochs=1, batch_size=4)
        return Pretraining(TINY, "simclr", plan, SIGNAL, train, tmp_path / "run", 0, {}).run()

    assert run(split()) == run(split())
    with pytest.raises(RunMismatchError, match="other records to learn from"):
        run(split(2))
    without(tmp_path / "run" / LAST_NAME, "records", "left_alone")
    assert run(split(2)) == run(split())


# Commands


@pytest.fixture
def root(tmp_path, monkeypatch):
    monkeypatch.setenv("ECG_EDGE_CACHE", str(tmp_path / "cache"))
    return str(write_ptbxl(tmp_path / "ptb-xl", rows_of(["NORM", "IMI"] * 3, [1, 2, 9])))


def test_labels_that_were_flipped_in_a_table_of_the_same_name_are_another_run(root, tmp_path, capsys):
    model = "[model]\nd_model = 8\nn_layers = 1\n[training]\nepochs = 1\nbatch_size = 4\n"
    (tmp_path / "mine.toml").write_text(f'{model}[task]\nlabels = "table"\ntable = "acs.csv"\n')
    asked = ["train", "--data", root, "--preset", str(tmp_path / "mine.toml"), "--folds", "1", "--out",
             str(tmp_path / "run")]  # fmt: skip
    for turned, status in ((0, 0), (0, 0), (1, 2)):
        lines = [f"{i},{int(i % 3 == turned)}\n" for i in range(1, 19)]
        (tmp_path / "acs.csv").write_text("".join(["ecg_id,ACS\n", *lines]))
        assert main(asked) == status
    assert (
        "holds a run of other targets (labels, --soft-labels) and other labels to tune on: " in capsys.readouterr().err
    )


def test_a_study_of_other_folds_is_another_one_and_its_table_says_which(root, tmp_path, capsys):
    (tmp_path / "mine.toml").write_text('title = "t"\nbase = "tiny"\nepochs = 1\n')
    asked = ["study", str(tmp_path / "mine.toml"), "--data", root, "--out", str(tmp_path / "runs"), "--json"]
    assert main([*asked, "--folds", "1"]) == 0
    assert "--folds 1 --tune-folds 9" in capsys.readouterr().out
    assert main([*asked, "--folds", "2"]) == 2
    assert "other records to train on (--folds, --limit)" in capsys.readouterr().err
    assert main([*asked, "--folds", "1", "--tune-folds", "2"]) == 2
    assert "other records to tune on (--tune-folds, --limit)" in capsys.readouterr().err
