"""`ecg-trainer card`: a card made of a manifest and of what evaluations printed, and of nothing else."""

from __future__ import annotations

import json

import msgspec
import pytest

from edge.runtime.bundle import load_bundle, write_manifest
from edge.runtime.manifest import StateMonitor, StateRange
from trainer.card.markdown import markdown
from trainer.card.write import parameters
from trainer.cli import main
from trainer.report import Sheet, cell_text
from trainer.stream_evaluation.measure import PARTS
from trainer.stream_evaluation.result import read_evaluation
from trainer.study import Outcome, Study, table_of


@pytest.fixture
def evaluation(result_of, root, bundle_path, tmp_path):
    """The file that a quick evaluation of everything but robustness prints."""
    parts = [part for part in PARTS if part != "robustness"]
    result = result_of("stream-evaluate", "--data", root, "--bundle", bundle_path, "--quick", "--bootstrap", 20,
                       "--only", *parts)  # fmt: skip
    path = tmp_path / "streams.json"
    path.write_text(json.dumps(result))
    return path


def test_a_card_holds_every_figure_and_small_plots(result_of, root, bundle_path, evaluation, tmp_path):
    result_of("tune", "--data", root, "--bundle", bundle_path)
    batch = tmp_path / "batch.json"
    batch.write_text(json.dumps(result_of("evaluate", "--data", root, "--bundle", bundle_path, "--bootstrap", 20)))
    study = tmp_path / "study.json"
    outcomes = [Outcome("a | b", seed, 1234, 17418, 0.91 + 0.02 * seed, None, None) for seed in (0, 1)]
    table = table_of(Study("What each part gives", "tiny"), outcomes, "ecg-trainer study recipe", "2026-01-01")
    study.write_text(json.dumps(table))
    result = result_of(
        "card", "--bundle", bundle_path, "--evaluation", batch, "--evaluation", evaluation, "--table", study
    )
    card = (bundle_path / "MODEL_CARD.md").read_text()
    assert result["card"] == str(bundle_path / "MODEL_CARD.md")
    assert card.startswith("# tiny 0.1\n")
    manifest, streams = load_bundle(bundle_path).manifest, read_evaluation(evaluation)
    for words in (
        "Research use only", "Creative Commons Attribution 4.0", "Scientific Data 7:154", manifest.model_hash,
        f"{parameters(load_bundle(bundle_path)):,}", f"{streams.warm[-1].auc.macro:.4f}", streams.command,
        f"{manifest.metrics['macro_f1_crossfit']:.4f}", "What each part gives", r"a \| b",
        "ecg-trainer study recipe", "0.9200 ± 0.0141",
        "Known limits", "What a budget of false alerts buys", manifest.metrics["command"],
        "| ST level moved by the filter | -2 µV (J + 60 ms",
    ):  # fmt: skip
        assert words in card, words
    plots = list((bundle_path / "plots").iterdir())
    assert {f"plots/{path.name}" for path in plots} == {part.split(")")[0] for part in card.split("](")[1:]}
    assert sum(path.stat().st_size for path in plots) < 300_000
    assert load_bundle(bundle_path).manifest == manifest  # a card beside it does not disturb a bundle


def test_a_card_of_a_bundle_alone_shows_what_it_was_tuned_to(result_of, root, bundle_path, tmp_path):
    result_of("tune", "--data", root, "--bundle", bundle_path)
    manifest = load_bundle(bundle_path).manifest
    leaning = [[0.0] * 5 for _ in range(5)]
    leaning[4][2] = -0.34
    calibration = msgspec.structs.replace(manifest.calibration, scale=[1.25] * 5, bias=[0.5] * 5, others=leaning)
    manifest = msgspec.structs.replace(manifest, calibration=calibration)
    watched = StateMonitor({manifest.state[0].name: StateRange(0.1, 0.2, 0.3, 0.4, 0.8125)})
    write_manifest(bundle_path, msgspec.structs.replace(manifest, state_monitor=watched))
    result_of("card", "--bundle", bundle_path, "--out", tmp_path / "card")
    card = (tmp_path / "card" / "MODEL_CARD.md").read_text()
    assert f"{manifest.metrics['macro_auc']:.4f}" in card
    assert "at any likelihood" in " ".join(card.split())
    assert "0.8125" in card
    assert "| HYP | 0.00 | 0.00 | -0.34 | 0.00 | 1.25 | 0.50 |" in card
    assert "null" not in card


def test_figures_of_another_model_are_refused(capsys, bundle_path, evaluation):
    other = json.loads(evaluation.read_text())
    other["bundle"]["hash"] = "0" * 64
    evaluation.write_text(json.dumps(other))
    assert main(["card", "--bundle", str(bundle_path), "--evaluation", str(evaluation)]) == 2
    assert "measured with another model" in capsys.readouterr().err


@pytest.mark.parametrize("content", ["", "{}", "[1]", '{"kind": "stream-evaluate"}'])
def test_a_file_that_is_no_evaluation_is_one_line(capsys, bundle_path, tmp_path, content):
    path = tmp_path / "other.json"
    path.write_text(content)
    assert main(["card", "--bundle", str(bundle_path), "--evaluation", str(path)]) == 2
    assert str(path) in capsys.readouterr().err


def test_a_sheet_is_a_markdown_table():
    sheet = Sheet(title="T", columns=["a", "b"], rows=[["x|y", 0.123456], [None, 3]], notes="N.", command="c")
    assert markdown(sheet) == (
        "### T\n\n| a | b |\n| :-- | --: |\n| x\\|y | 0.1235 |\n| – | 3 |\n\nN.\n\n`c`"
    )  # fmt: skip
    assert cell_text(0.5) == "0.5"


def test_seeds_stand_next_to_one_another_with_their_mean(result_of, root, bundle_path, evaluation, tmp_path):
    own = result_of("evaluate", "--data", root, "--bundle", bundle_path, "--bootstrap", 0)
    own |= {"macro_auc": 0.92}
    other = own | {"macro_auc": 0.94, "bundle": own["bundle"] | {"hash": "1" * 64, "seed": 7}}
    for name, content in (("own", own), ("other", other)):
        (tmp_path / f"{name}.json").write_text(json.dumps(content))
    streamed = json.loads(evaluation.read_text())
    streamed["bundle"] |= {"hash": "1" * 64, "seed": 7}
    (tmp_path / "streamed.json").write_text(json.dumps(streamed))
    result_of("card", "--bundle", bundle_path, "--evaluation", tmp_path / "own.json", "--evaluation", evaluation,
              "--seed", tmp_path / "other.json", "--seed", tmp_path / "streamed.json")  # fmt: skip
    sections = (bundle_path / "MODEL_CARD.md").read_text().split("\n## ")
    (seeds,) = [section for section in sections if section.startswith("Seeds\n")]
    assert "7 (11111111) | 0.9400" in seeds
    assert "**mean ± sd of 2** | 0.9300 ± 0.0141" in seeds
    assert "macro-AUC, 1 min" in seeds
