"""What is easily mistyped is answered in one line, before anything is read or written."""

from __future__ import annotations

import pytest

from edge.cli.output import EXIT_USAGE

TRAIN = ("train", "--preset", "tiny")


@pytest.mark.parametrize(
    ("words", "answer"),
    [
        ((*TRAIN, "--epochs", 0), "--epochs: must lie between 1 and 10000"),
        (("pretrain", "--preset", "tiny", "--method", "cpc", "--epochs", 0), "--epochs: must lie between"),
        ((*TRAIN, "--limit", 0), "--limit: must lie between 1"),
        ((*TRAIN, "--limit", "all"), "--limit: 'all' is not a whole number"),
        ((*TRAIN, "--threads", -1), "--threads: must lie between 1"),
        ((*TRAIN, "--threads", 0), "--threads: must lie between 1"),
        ((*TRAIN, "--seed", -1), "--seed: must lie between 0 and 4294967295"),
        ((*TRAIN, "--seed", 2**32), "--seed: must lie between 0"),
        (("cross-validate", "--preset", "tiny", "--limit", -3), "--limit: must lie between 1"),
        (("compare", "--bootstrap", -1), "--bootstrap: must lie between 0"),
        (("study", "labels", "--seeds", 0, -1), "--seeds: must lie between 0"),
        ((*TRAIN, "--folds", "1-99999999999"), "folds go from 1 to 10"),
        ((*TRAIN, "--folds", "3-1"), "folds go from 1 to 10"),
        ((*TRAIN, "--folds", "1-9"), "--folds 1-9: fold 9 is among --tune-folds too"),
        ((*TRAIN, "--folds", "1-9", "--tune-folds", "7-9"), "folds 7-9 are among --tune-folds too"),
        ((*TRAIN, "--folds", "1-8", "--tune-folds", "10"), "fold 10 is the test fold: nothing is tuned on it"),
        (("study", "labels", "--tune-folds", "9-10"), "fold 10 is the test fold"),
        (("study", "labels", "--folds", "9"), "fold 9 is among --tune-folds too"),
    ],
)
def test_a_number_that_cannot_be_meant_is_refused(command, root, tmp_path, words, answer):
    status, printed = command(words[0], *words[1:], "--data", root, "--out", tmp_path / "run")
    assert status == EXIT_USAGE
    assert answer in printed.err
    assert "Traceback" not in printed.err
    assert not (tmp_path / "run").exists()


def test_the_largest_seed_that_is_taken_trains(result_of, root, tmp_path):
    words = (*TRAIN, "--folds", 8, "--limit", 8, "--epochs", 1, "--threads", 1, "--seed", 2**32 - 1)
    assert result_of(*words, "--data", root, "--out", tmp_path / "run")["epochs"] == 1


@pytest.mark.parametrize("name", ["evaluate", "stream-evaluate"])
def test_a_runtime_that_there_is_not_is_refused_before_records_are_read(command, tmp_path, name):
    status, printed = command(name, "--data", tmp_path / "absent", "--runtime", "tensorflow")
    assert status == EXIT_USAGE
    assert "invalid choice: 'tensorflow'" in printed.err
