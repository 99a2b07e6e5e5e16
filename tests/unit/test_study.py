"""Studies: variants differ in what they say and in nothing else, and the table is what was measured."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch

from edge.errors import BundleError, ConfigError
from export.bundle import write_bundle
from tests.tiny_ptbxl import rows_of, write_ptbxl
from trainer.checkpoint import load_checkpoint
from trainer.cli import main
from trainer.data import Split, fit_signal, load_split
from trainer.model import EcgMamba
from trainer.preset import SignalPreset, load_preset
from trainer.ptbxl import open_ptbxl
from trainer.study import Outcome, Study, load_study, table_of, variants_of, warm_logits
from trainer.study_command import folder_name, study_names, study_path

CODES = ["NORM", "IMI", "NDT", "LAFB", "LVH"]
TINY = load_preset("tiny")


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    return write_ptbxl(tmp_path_factory.mktemp("ptbxl") / "ptb-xl", rows_of(CODES * 2, [1, 9]))


def study(text, tmp_path):
    path = tmp_path / "mine.toml"
    path.write_text(text)
    return load_study(path)


@pytest.mark.parametrize("name", study_names())
def test_every_study_that_ships_names_variants_that_can_be_built_and_stored_apart(name):
    read = load_study(study_path(name))
    presets = variants_of(read, load_preset(read.base))
    described = [json.dumps(preset.describe()) for preset in presets.values()]
    assert len(set(described)) == len(described) > 3
    assert len({folder_name(variant) for variant in presets}) == len(presets)


def test_a_variant_changes_what_it_says_and_nothing_else(tmp_path):
    read = study('title = "t"\nbase = "tiny"\nepochs = 3\n[variants."wide"]\nmodel.d_model = 24\n', tmp_path)
    base, wide = variants_of(read, TINY).values()
    assert base.training.epochs == 3
    assert wide.model.d_model == 24
    assert (wide.signal, wide.training) == (base.signal, base.training)


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ('base = "tiny"\n', "title"),
        ('title = "t"\nbase = "tiny"\n[variants."x"]\nmodels.d_model = 1\n', "models"),
        ('title = "t"\nbase = "tiny"\n[variants."x"]\nmodel.width = 1\n', "width"),
        ('title = "t"\nbase = "tiny"\n[variants."x"]\nsignal.filter = "magic"\n', "magic"),
        ('title = "t"\nbase = "tiny"\nseeds = []\n', "seeds"),
    ],
)
def test_a_study_with_a_fault_is_refused_by_name(tmp_path, text, named):
    with pytest.raises(ConfigError, match=named):
        variants_of(study(text, tmp_path), TINY)


def test_the_command_trains_what_is_asked_for_and_prints_its_table(root, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("ECG_EDGE_CACHE", str(root.parent / "cache"))
    path = tmp_path / "mine.toml"
    path.write_text('title = "Mine"\nbase = "tiny"\nepochs = 1\n[variants.both-ways]\nsignal.filter = "zero_phase"\n')
    out = tmp_path / "runs"
    asked = ["study", str(path), "--data", str(root), "--folds", "1", "--out", str(out), "--seeds", "0", "1"]
    assert main([*asked, "--json"]) == 0
    table = json.loads(capsys.readouterr().out)
    assert [row[0] for row in table["rows"]] == ["tiny", "both-ways"]
    assert [row[-1] for row in table["rows"]] == ["0, 1", "0, 1"]
    assert "±" in table["rows"][0][2]
    assert table["rows"][0][4] == "-2"
    assert table["rows"][1][4] == "-"
    assert sorted(folder.name for folder in out.iterdir()) == ["both-ways", "tiny"]
    with pytest.raises(BundleError, match="zero-phase"):
        write_bundle(load_checkpoint(out / "both-ways" / "seed-0" / "best"), tmp_path / "bundle", "x", "1")
    assert main([*asked, "--only", "nothing"]) == 2
    assert "nothing" in capsys.readouterr().err


def test_the_table_has_mean_and_deviation_over_seeds():
    outcomes = [Outcome("a", seed, 1000, 0.90 + 0.01 * seed, None, None) for seed in (0, 2)]
    (row,) = table_of(Study("t", "tiny"), outcomes, "command", "2026-01-01")["rows"]
    assert row == ["a", "1,000", "0.9100 ± 0.0141", "-", "-", "0, 2"]


def test_warm_logits_are_those_of_a_stream_that_went_on(monkeypatch):
    monkeypatch.setattr("trainer.study.WARM_S", 20)
    torch.manual_seed(0)
    model = EcgMamba(TINY.model).eval()
    signals = np.random.default_rng(0).standard_normal((3, 1000, 12), dtype=np.float32)
    warm = warm_logits(model, Split(signals, np.zeros((3, 5), np.float32)), seed=4)
    others = np.random.default_rng(4).integers(0, 3, (2, 3))
    with torch.inference_mode():
        state = model.initial_state(3)
        for hop in np.concatenate([*signals[others], signals], axis=1).reshape(3, 30, 100, 12).swapaxes(0, 1):
            streamed, state = model(torch.from_numpy(hop), state)
    np.testing.assert_allclose(warm, streamed.numpy(), atol=1e-5)


def test_without_a_filter_everything_passes_and_zero_phase_delays_nothing(root):
    data = open_ptbxl(root, root.parent / "cache")
    rows = data.rows([1])
    raw_spec = fit_signal(data, rows, SignalPreset(filter="none")).frontend()
    raw = load_split(data, rows, raw_spec).signals
    np.testing.assert_allclose(raw * raw_spec.std_mv, data.signals_uv[rows] / 1000.0, atol=1e-5)
    spec = fit_signal(data, rows, SignalPreset()).frontend()
    causal, zero_phase = load_split(data, rows, spec).signals, load_split(data, rows, spec, zero_phase=True).signals
    peaks = [np.argmax(signals[0, 300:400, 0]) for signals in (raw, causal, zero_phase)]
    assert peaks[0] == peaks[2] < peaks[1]
