"""What a comparison asks of other commands and of presets: the exporter as a process, claims as data."""

from __future__ import annotations

import msgspec
import pytest

from edge.errors import ConfigError
from edge.runtime.bundle import write_manifest
from tests.windowed_bundles import windowed_checkpoint
from trainer.checkpoint import load_checkpoint, save_checkpoint
from trainer.claims import Claim, verdict
from trainer.compare import exporting
from trainer.compare.exporting import NotExportedError, bundle_of
from trainer.history import Epoch, best_of, is_finished, read_history
from trainer.preset import TrainingPreset, load_preset, preset_names

REPORT = {"macro_auc": 0.93, "accuracy": None, "per_class": {"NORM": {"auc": 0.95}, "HYP": {"auc": None}}}


def stored(path, **preset):
    made = windowed_checkpoint("simple-cnn-1d", **preset)
    facts = made.facts
    save_checkpoint(
        path, made.model, facts.preset, facts.signal, facts.classes, facts.leads, facts.training, facts.kind
    )
    return load_checkpoint(path)


def test_a_checkpoint_is_exported_by_the_exporters_own_command_and_only_once(tmp_path, monkeypatch):
    checkpoint = stored(tmp_path / "best")
    bundle = bundle_of(checkpoint, tmp_path / "bundle", "cnn (mine)")
    assert (bundle.manifest.kind, bundle.manifest.name) == ("windowed", "cnn-mine")
    monkeypatch.setattr(exporting, "_export", lambda *_: pytest.fail("exported again"))
    assert bundle_of(checkpoint, tmp_path / "bundle", "cnn").manifest == bundle.manifest


def test_a_bundle_of_a_version_that_knew_no_softmax_is_exported_again(tmp_path):
    checkpoint = stored(tmp_path / "best", training={"loss": "cross_entropy"})
    bundle = bundle_of(checkpoint, tmp_path / "bundle", "cnn")
    assert bundle.manifest.calibration.softmax
    old = msgspec.structs.replace(bundle.manifest.calibration, softmax=False)
    write_manifest(bundle.path, msgspec.structs.replace(bundle.manifest, calibration=old))
    assert bundle_of(checkpoint, tmp_path / "bundle", "cnn").manifest == bundle.manifest


def test_what_the_exporter_refuses_is_said_in_one_line(tmp_path):
    checkpoint = stored(tmp_path / "best", signal={"filter": "zero_phase"})
    with pytest.raises(NotExportedError, match="zero-phase filter looks into the future") as refused:
        bundle_of(checkpoint, tmp_path / "bundle", "cnn")
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize(
    ("claim", "value", "reached"),
    [
        (Claim("auc", at_least=0.93), 0.93, True),
        (Claim("auc", more_than=0.93), 0.93, False),
        (Claim("auc", of="NORM", more_than=0.915), 0.95, True),
        (Claim("auc", of="HYP", more_than=0.5), None, False),
        (Claim("auc", of="nobody", more_than=0.5), None, False),
        (Claim("accuracy", more_than=0.7), None, False),
    ],
)
def test_a_figure_that_was_not_measured_reaches_nothing(claim, value, reached):
    held = verdict(claim, REPORT)
    assert (held.value, held.reached) == (value, reached)


def test_every_preset_says_what_it_is_and_the_seeds_what_they_reached():
    presets = {name: load_preset(name) for name in preset_names()}
    assert all(preset.about for preset in presets.values())
    assert [claim.words for claim in presets["cardionet-xl"].claims] == ["NORM AUC > 0.915", "STTC AUC > 0.918"]
    assert [claim.words for claim in presets["ecg-mamba-seed"].claims] == ["accuracy > 0.7"]
    assert {name for name, preset in presets.items() if preset.claims} == {
        "cardionet-xl", "ecg-mamba-seed", "inception1d", "lstm", "resnet1d-wang", "s4-ecg", "simple-cnn-1d",
        "simple-cnn-2d", "xresnet1d101",
    }  # fmt: skip


@pytest.mark.parametrize("bounds", ["", "more_than = 0.5\nat_least = 0.5\n", 'of = "MI"\nmore_than = 0.5\n'])
def test_a_claim_that_cannot_be_held_against_anything_is_refused(tmp_path, bounds):
    figure = "accuracy" if "MI" in bounds else "auc"
    (tmp_path / "mine.toml").write_text(f'[[claims]]\nfigure = "{figure}"\n{bounds}')
    with pytest.raises(ConfigError, match=r"claim|accuracy"):
        load_preset(str(tmp_path / "mine.toml"))


def test_a_history_is_read_whatever_a_kill_left_of_it(tmp_path):
    lines = ['{"epoch": 1, "loss": 1, "macro_auc": NaN, "accuracy": 0, "seconds": 2}'] * 2
    (tmp_path / "metrics.jsonl").write_text("\n".join([*lines, '{"epoch": 2, "lo']))
    (epoch,) = read_history(tmp_path / "metrics.jsonl")
    assert (epoch.epoch, epoch.seconds) == (1, 2)
    assert read_history(tmp_path / "nothing") == []


def test_a_training_is_done_with_its_last_epoch_or_out_of_patience():
    history = [Epoch(k, 1.0, auc, 0.5, 1.0) for k, auc in enumerate([0.7, 0.9, 0.9, 0.8], 1)]
    recipe = TrainingPreset(epochs=9, patience_epochs=2)
    assert best_of(history, recipe).epoch == 2
    assert [is_finished(history[:k], recipe) for k in range(5)] == [False, False, False, False, True]
    assert not is_finished(history, TrainingPreset(epochs=9, patience_epochs=2, keep="last"))
    assert is_finished(history, TrainingPreset(epochs=4, keep="last"))
