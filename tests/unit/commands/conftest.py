"""What tests of the trainer's commands share: a few records, a small bundle, and a way to run a command."""

from __future__ import annotations

import json
import shutil

import pytest

from tests.tiny_bundle import tiny_bundle
from tests.tiny_ptbxl import Row, rows_of, write_ptbxl
from trainer.cli import main
from trainer.ptbxl import CACHE_VARIABLE

CODES = ["NORM", "IMI", "NDT", "LAFB", "LVH"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A folder for a module's tests."""
    return tmp_path_factory.mktemp("commands")


@pytest.fixture(autouse=True)
def surroundings(folder, monkeypatch):
    monkeypatch.setenv(CACHE_VARIABLE, str(folder / "cache"))
    monkeypatch.delenv("NSTDB_ROOT", raising=False)


@pytest.fixture(scope="module")
def root(folder):
    """Folds 8 and 9 only, four records of each class in each, and one record without a superclass."""
    rows = rows_of(CODES * 4, [8, 9])
    return write_ptbxl(folder / "ptb-xl", [*rows, Row(500, "{'SR': 100.0}", 9, 500)])


@pytest.fixture(scope="module")
def pristine(folder):
    """A small bundle that nobody changes."""
    return tiny_bundle(folder / "tiny")


@pytest.fixture
def bundle_path(pristine, tmp_path):
    """The small bundle, to be changed."""
    return shutil.copytree(pristine.path, tmp_path / "tiny")


@pytest.fixture
def command(capsys):
    """Run a command line; return its exit status and what it printed."""

    def run(*words):
        status = main([str(word) for word in words])
        return status, capsys.readouterr()

    return run


@pytest.fixture
def result_of(command):
    """Run a command that succeeds, with --json; return its result."""

    def run(*words):
        status, printed = command(*words, "--json")
        assert status == 0, printed.err
        return json.loads(printed.out)

    return run
