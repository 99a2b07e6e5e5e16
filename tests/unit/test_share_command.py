"""`ecg-trainer share`: a bundle goes out and comes back file for file; a pickle is never read."""

from __future__ import annotations

import json
import os
import pickle
import shutil
from pathlib import Path

import huggingface_hub.hub_mixin
import pytest
from huggingface_hub.errors import LocalEntryNotFoundError

import trainer.hub
from edge.errors import BundleError
from edge.runtime.bundle import load_bundle, shipped_bundle_path
from tests.folders import contents
from tests.tiny_bundle import tiny_bundle
from tests.windowed_bundles import windowed_bundle
from trainer.cli import main
from trainer.hub import EcgClassifier
from trainer.share_command import is_repository


@pytest.fixture(scope="module")
def bundles(tmp_path_factory):
    folder = tmp_path_factory.mktemp("bundles")
    return {"recurrent": tiny_bundle(folder / "tiny"), "windowed": windowed_bundle(folder / "resnet")}


@pytest.fixture(scope="module")
def shared(bundles, tmp_path_factory):
    """The recurrent bundle in the Hugging Face format."""
    folder = tmp_path_factory.mktemp("shared")
    EcgClassifier.of_bundle(bundles["recurrent"]).save_pretrained(folder)
    return folder


@pytest.fixture
def copy(shared, tmp_path):
    return shutil.copytree(shared, tmp_path / "copy")


@pytest.fixture
def share(capsys):
    """Run the command; returns its JSON."""

    def run(*words):
        assert main(["share", *map(str, words), "--json"]) == 0, capsys.readouterr().err
        return json.loads(capsys.readouterr().out)

    return run


@pytest.fixture
def refusal(capsys):
    """Run the command; returns the one line it ends with."""

    def run(*words):
        assert main(["share", *map(str, words)]) == 2
        error = capsys.readouterr().err.strip()
        assert "\n" not in error
        return error

    return run


class Harmful:
    """A pickle of this writes a file when it is read."""

    def __init__(self, witness):
        self.witness = witness

    def __reduce__(self):
        return (Path.touch, (self.witness,))


@pytest.mark.parametrize("kind", ["recurrent", "windowed"])
def test_a_bundle_that_was_shared_and_taken_back_is_the_same_file_for_file(share, bundles, tmp_path, kind):
    before = contents(bundles[kind].path)

    share(bundles[kind].path, "--to", tmp_path / "hub")
    result = share("--from", tmp_path / "hub", "--out", tmp_path / "back")

    after = contents(tmp_path / "back")
    assert {name: after[name] for name in before} == before
    assert set(after) - set(before) == {"MODEL_CARD.md"}
    assert result["model"]["kind"] == kind
    assert load_bundle(tmp_path / "back").manifest == bundles[kind].manifest


def test_the_bundle_that_ships_comes_back_with_its_card_and_its_plots(share, tmp_path):
    share("--to", tmp_path / "hub")
    share("--from", tmp_path / "hub", "--out", tmp_path / "back")

    assert contents(tmp_path / "back") == contents(shipped_bundle_path())


@pytest.mark.parametrize("name", ["pytorch_model.bin", "model.pt", "weights.ckpt"])
def test_a_folder_of_pickles_is_refused_and_none_is_read(copy, refusal, tmp_path, name):
    (copy / "model.safetensors").unlink()
    (copy / name).write_bytes(pickle.dumps(Harmful(tmp_path / "witness")))

    error = refusal("--from", copy, "--out", tmp_path / "out")

    assert f"holds its weights as {name} alone" in error
    assert "model.safetensors" in error
    with pytest.raises(BundleError, match="a pickle can run any program"):
        EcgClassifier.from_pretrained(str(copy))
    assert not (tmp_path / "witness").exists()
    assert not (tmp_path / "out").exists()


def test_a_pickle_beside_the_weights_is_left_alone(copy, share, tmp_path):
    (copy / "training.bin").write_bytes(pickle.dumps(Harmful(tmp_path / "witness")))

    share("--from", copy, "--out", tmp_path / "out")

    assert not (tmp_path / "witness").exists()
    assert "training.bin" not in contents(tmp_path / "out")


def test_a_file_that_is_not_what_the_config_says_is_refused(copy, refusal, tmp_path):
    with (copy / "model.onnx").open("ab") as file:
        file.write(b"\0")

    assert "model.onnx does not have the SHA-256" in refusal("--from", copy, "--out", tmp_path / "out")


def test_a_file_that_is_missing_is_named(copy, refusal, tmp_path):
    (copy / "model.onnx").unlink()

    assert "model.onnx is missing" in refusal("--from", copy, "--out", tmp_path / "out")


CONFIGS_OF_SOMETHING_ELSE = {
    "nothing": "{}",
    "another's": '{"model_type": "bert"}',
    "cut short": "[",
    "no manifest": '{"model_type": "ecg-edge", "manifest": {}}',
    "nested without end": '{"manifest": {"metrics": {"a": ' + "[" * 100_000 + "]" * 100_000 + "}}}",
}


@pytest.mark.timeout(30)
def test_a_config_that_is_a_pipe_keeps_nobody_waiting(copy, refusal, tmp_path):
    (copy / "config.json").unlink()
    os.mkfifo(copy / "config.json")

    assert "config.json is no regular file" in refusal("--from", copy, "--out", tmp_path / "out")


@pytest.mark.parametrize("config", CONFIGS_OF_SOMETHING_ELSE.values(), ids=CONFIGS_OF_SOMETHING_ELSE)
def test_a_config_of_something_else_is_refused(copy, refusal, tmp_path, config):
    (copy / "config.json").write_text(config)

    assert "config.json is not one of ecg-edge's" in refusal("--from", copy, "--out", tmp_path / "out")


def test_a_manifest_that_reaches_out_of_the_folder_is_refused(copy, refusal, tmp_path):
    config = json.loads((copy / "config.json").read_text())
    config["manifest"]["files"]["../secret"] = "0" * 64
    (copy / "config.json").write_text(json.dumps(config))

    assert "files has an unsafe name" in refusal("--from", copy, "--out", tmp_path / "out")


def test_a_folder_that_is_no_shared_model_is_refused(refusal, tmp_path):
    assert "config.json is missing" in refusal("--from", tmp_path, "--out", tmp_path / "out")
    assert "there is no such folder" in refusal("--from", tmp_path / "none", "--out", tmp_path / "out")


def test_a_folder_with_other_things_in_it_is_not_replaced(refusal, share, bundles, tmp_path):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("years of work")

    assert "has no config.json" in refusal(bundles["recurrent"].path, "--to", tmp_path / "mine")

    share(bundles["recurrent"].path, "--to", tmp_path / "hub")
    (tmp_path / "hub" / "old.txt").write_text("of the last time")
    share(bundles["windowed"].path, "--to", tmp_path / "hub")
    assert not (tmp_path / "hub" / "old.txt").exists()
    assert (tmp_path / "mine" / "thesis.txt").read_text() == "years of work"


def test_a_name_means_a_repository_only_where_no_folder_can_be_meant(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "runs").mkdir()

    assert is_repository("user/ecg-mamba")
    assert not any(map(is_repository, ["runs/hub", "hub", "./hub", "/tmp/hub", "a/b/c", "hub/", "../x"]))


def test_a_repository_comes_as_its_snapshot(share, shared, tmp_path, monkeypatch):
    asked = {}

    def snapshot(repository, allow_patterns, **how):
        asked.update(repository=repository, patterns=allow_patterns, **how)
        return str(shared)

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(trainer.hub, "snapshot_download", snapshot)

    share("--from", "user/tiny", "--revision", "v2", "--out", "back")

    assert (asked["repository"], asked["revision"]) == ("user/tiny", "v2")
    assert not any(pattern.endswith(trainer.hub.PICKLES) for pattern in asked["patterns"])
    assert load_bundle(tmp_path / "back").manifest.name == "tiny"


def test_a_repository_of_pickles_is_refused_without_fetching_one(refusal, tmp_path, monkeypatch):
    class Hub:
        def list_repo_files(self, repository, revision, token):
            return ["config.json", "pytorch_model.bin"]

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(trainer.hub, "HfApi", Hub)
    monkeypatch.setattr(trainer.hub, "snapshot_download", lambda *_, **__: str(tmp_path))

    assert "holds its weights as pytorch_model.bin alone" in refusal("--from", "user/old", "--out", "back")


def test_a_hub_that_cannot_be_reached_is_said_in_one_line(refusal, tmp_path, monkeypatch):
    def unreachable(*_, **__):
        raise LocalEntryNotFoundError("no network\nand more of it")

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(trainer.hub, "snapshot_download", unreachable)

    assert "user/tiny: cannot be fetched: no network" in refusal("--from", "user/tiny", "--out", "back")


@pytest.mark.parametrize(("words", "private"), [([], True), (["--public"], False)])
def test_a_push_uploads_the_same_files_and_is_private_unless_asked(
    share, bundles, shared, tmp_path, monkeypatch, words, private
):
    uploaded = {}

    class Hub:
        def __init__(self, token=None):
            pass

        def create_repo(self, repo_id, private, exist_ok):
            uploaded["private"] = private
            return type("Url", (), {"repo_id": repo_id})

        def upload_folder(self, folder_path, delete_patterns, **_):
            uploaded.update(files=contents(Path(folder_path)), replaced=delete_patterns)
            return "https://hub.example/user/tiny"

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(huggingface_hub.hub_mixin, "HfApi", Hub)

    result = share(bundles["recurrent"].path, "--to", "user/tiny", *words)

    assert result["url"] == "https://hub.example/user/tiny"
    assert uploaded == {"private": private, "files": contents(shared), "replaced": ["*.onnx", "plots/*"]}


def test_what_does_not_go_together_is_refused(refusal, bundles):
    assert "--from needs --out" in refusal("--from", "hub")
    assert "no BUNDLE" in refusal(bundles["recurrent"].path, "--from", "hub", "--out", "back")
    assert "--out belongs to --from" in refusal("--to", "hub", "--out", "back")
    assert "--revision is of a repository" in refusal(
        "--from", bundles["recurrent"].path, "--revision", "v2", "--out", "back"
    )
