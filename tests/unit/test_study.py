"""Studies: variants differ in what they say and in nothing else, and the table is what was measured."""

from __future__ import annotations

import json

import msgspec
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
from trainer.run_folder import BEST_NAME
from trainer.study import Outcome, Study, load_study, table_of, variants_of, warm_logits
from trainer.study_command import folder_name, study_names, study_path
from trainer.transfer import body

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
    variants = variants_of(read, load_preset(read.base))
    described = [json.dumps([variant.preset.describe(), variant.start]) for variant in variants.values()]
    assert len(set(described)) == len(described) > 3
    assert len({folder_name(name) for name in variants}) == len(variants)


def test_a_variant_changes_what_it_says_and_nothing_else(tmp_path):
    read = study('title = "t"\nbase = "tiny"\nepochs = 3\n[variants."wide"]\nmodel.d_model = 24\n', tmp_path)
    base, wide = variants_of(read, TINY).values()
    assert base.preset.training.epochs == 3
    assert wide.preset.model.d_model == 24
    assert (wide.preset.signal, wide.preset.training) == (base.preset.signal, base.preset.training)
    assert base.start == wide.start == ""


def test_a_study_changes_a_pre_training_setting_by_setting(tmp_path):
    text = 'title = "t"\nbase = "ssl-encoder"\n[changes]\npretraining.simclr.epochs = 2\n'
    stated = load_preset("ssl-encoder")
    (plain,) = variants_of(study(text, tmp_path), stated).values()
    assert plain.preset.pretraining.simclr == msgspec.structs.replace(stated.pretraining.simclr, epochs=2)
    assert plain.preset.pretraining.byol == stated.pretraining.byol


def test_what_a_study_changes_in_its_base_all_variants_have(tmp_path):
    text = 'title = "t"\nbase = "tiny"\nname = "plain"\n[changes]\ntraining.keep = "last"\n'
    text += '[variants."foretold"]\nstart = "cpc"\ntraining.label_share = 0.1\n'
    variants = variants_of(study(text, tmp_path), TINY)
    assert list(variants) == ["plain", "foretold"]
    assert all(variant.preset.training.keep == "last" for variant in variants.values())
    assert (variants["plain"].start, variants["foretold"].start) == ("", "cpc")
    assert variants["plain"].preset.training.label_share == 1.0


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ('base = "tiny"\n', "title"),
        ('title = "t"\nbase = "tiny"\n[variants."x"]\nmodels.d_model = 1\n', "models"),
        ('title = "t"\nbase = "tiny"\n[variants."x"]\nmodel.width = 1\n', "width"),
        ('title = "t"\nbase = "tiny"\n[variants."x"]\nsignal.filter = "magic"\n', "magic"),
        ('title = "t"\nbase = "tiny"\nseeds = []\n', "seeds"),
        ('title = "t"\nbase = "tiny"\n[changes]\npretraining.magic.epochs = 2\n', "magic"),
        ('title = "t"\nbase = "tiny"\n[changes]\npretraining.cpc.tau = 2\n', "tau"),
        ('title = "t"\nbase = "tiny"\n[variants."x"]\ntraining.crop_s = 20\n', "longer than a record"),
        (
            'title = "t"\nbase = "tiny"\n[variants."x"]\ntraining.loss = "cross_entropy"\ntraining.mixup = 0.4\n',
            "mixup belongs to",
        ),
        ('title = "t"\nbase = "tiny"\n[variants."x"]\nstart = "magic"\n', "magic"),
        ('title = "t"\nbase = "tiny"\n[variants."x"]\nstart = "masked_clusters"\n', "hubert-ecg"),
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
    assert "±" in table["rows"][0][table["columns"].index("macro-AUC cold")]
    assert [row[table["columns"].index("records")] for row in table["rows"]] == ["10", "10"]
    assert [row[table["columns"].index("ST shift (µV)")] for row in table["rows"]] == ["-2", "-"]
    assert sorted(folder.name for folder in out.iterdir()) == ["both-ways", "tiny"]
    with pytest.raises(BundleError, match="zero-phase"):
        write_bundle(load_checkpoint(out / "both-ways" / "seed-0" / "best"), tmp_path / "bundle", "x", "1")
    assert main([*asked, "--only", "nothing"]) == 2
    assert "nothing" in capsys.readouterr().err


def test_variants_that_start_from_the_same_method_share_one_pre_training(root, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("ECG_EDGE_CACHE", str(root.parent / "cache"))
    (tmp_path / "base.toml").write_text(
        "[model]\nd_model = 8\nn_layers = 1\nd_state = 8\n[training]\nbatch_size = 4\n"
        "[pretraining.cpc]\nepochs = 1\nbatch_size = 4\n"
    )
    path = tmp_path / "mine.toml"
    path.write_text(
        f'title = "t"\nbase = "{tmp_path}/base.toml"\nepochs = 1\n[variants."cpc, all"]\nstart = "cpc"\n'
        '[variants."cpc, half"]\nstart = "cpc"\ntraining.label_share = 0.5\ntraining.frozen = true\n'
    )
    out = tmp_path / "runs"
    assert main(["study", str(path), "--data", str(root), "--folds", "1", "--out", str(out), "--json"]) == 0
    rows = json.loads(capsys.readouterr().out)["rows"]
    assert [(row[0], row[2]) for row in rows] == [("base", "10"), ("cpc, all", "10"), ("cpc, half", "5")]
    (shared,) = out.glob("pretrained-cpc-*")
    learned = body(load_checkpoint(shared / BEST_NAME).model)
    frozen = load_checkpoint(out / "cpc-half" / "seed-0" / BEST_NAME)
    assert all(torch.equal(tensor, learned[name]) for name, tensor in body(frozen.model).items())
    assert (frozen.facts.training["folds"], frozen.facts.training["tune_folds"]) == ([1], [9])
    assert frozen.facts.training["init"]["folds"] == [1]
    assert frozen.facts.training["init"]["sha256"] == load_checkpoint(shared / BEST_NAME).facts.weights_sha256


def test_the_table_has_mean_and_deviation_over_seeds():
    outcomes = [Outcome("a", seed, 1000, 99 + seed, 0.90 + 0.01 * seed, None, None) for seed in (0, 2)]
    table = table_of(Study("t", "tiny"), outcomes, "command", "2026-01-01")
    assert table["columns"] == [
        "variant",
        "parameters",
        "records",
        "macro-AUC cold",
        "seeds",
    ]  # nothing warm, no filter
    assert table["rows"] == [["a", "1,000", "99 to 101", "0.9100 ± 0.0141", "0, 2"]]


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
