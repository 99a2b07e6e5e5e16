"""The command line: help that teaches, one-line errors, results as one JSON object."""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from edge import RESEARCH_USE_ONLY, __version__
from edge.cli import COMMANDS, main
from edge.cli.output import emit_json, run_command
from edge.daemon.config_docs import sample_toml
from edge.errors import EcgEdgeError

COMMAND_NAMES = [name.replace("_", "-") for name in COMMANDS]


def program_that(run: object) -> object:
    """A build function for a program whose only act is `run`."""

    def build() -> argparse.ArgumentParser:
        parser = argparse.ArgumentParser("prog")
        parser.set_defaults(run=run)
        return parser

    return build


def test_the_help_names_every_command_and_what_this_is_not(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--help"]) == 0
    text = capsys.readouterr().out
    assert RESEARCH_USE_ONLY in " ".join(text.split())
    assert "examples:" in text
    assert all(f"    {name}" in text for name in COMMAND_NAMES)


@pytest.mark.parametrize("name", COMMAND_NAMES)
def test_every_command_teaches_by_example_and_has_json(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([name, "--help"]) == 0
    text = capsys.readouterr().out
    assert "--json" in text
    assert f"  ecg-edge {name}" in text[text.index("examples:") :]


def test_the_version_is_told(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--version"]) == 0
    assert capsys.readouterr().out == f"ecg-edge {__version__}\n"


def test_no_command_and_a_wrong_one_are_usage_errors(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([]) == 2
    assert "commands:" in capsys.readouterr().out
    assert main(["dance"]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert "ecg-edge: error: " in captured.err


def test_an_expected_error_is_one_line_without_a_traceback(capsys: pytest.CaptureFixture[str]) -> None:
    def run(_: argparse.Namespace) -> int:
        raise EcgEdgeError("the broker\nis away; start it")

    assert run_command("ecg-edge", program_that(run), []) == 2
    captured = capsys.readouterr()
    assert (captured.out, captured.err) == ("", "ecg-edge: error: the broker is away; start it\n")


def test_what_cannot_be_written_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def write(args: object) -> int:
        (tmp_path / "none" / "picture.png").write_bytes(b"")
        return 0

    assert run_command("prog", program_that(write), []) == 2
    assert capsys.readouterr().err == f"prog: error: {tmp_path}/none/picture.png: No such file or directory\n"
    full = "import sys; from edge.cli import main; sys.exit(main(['check-config', '--sample']))"
    with Path("/dev/full").open("w") as disk:
        ended = subprocess.run([sys.executable, "-c", full], stdout=disk, stderr=subprocess.PIPE, text=True)
    assert ended.returncode == 2
    assert ended.stderr.splitlines()[-1].endswith("No space left on device")
    assert "Traceback" not in ended.stderr


def test_an_interrupt_is_130_and_a_fault_of_ours_keeps_its_traceback() -> None:
    def interrupted(_: argparse.Namespace) -> int:
        raise KeyboardInterrupt

    def faulty(_: argparse.Namespace) -> int:
        raise ZeroDivisionError

    assert run_command("prog", program_that(interrupted), []) == 130
    with pytest.raises(ZeroDivisionError):
        run_command("prog", program_that(faulty), [])


def test_a_reader_that_goes_away_is_no_error() -> None:
    program = (
        "import sys; from edge.cli.output import run_command; import argparse\n"
        "def run(args):\n"
        "    while True: print('x' * 4096)\n"
        "def build():\n"
        "    parser = argparse.ArgumentParser('prog'); parser.set_defaults(run=run); return parser\n"
        "sys.exit(run_command('prog', build, []))\n"
    )
    with subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.read(10)
        process.stdout.close()
        assert process.stderr.read() == b""
        assert process.wait(10) == 1


def test_json_takes_what_results_are_made_of(capsys: pytest.CaptureFixture[str]) -> None:
    emit_json(
        {
            "auc": np.float32(0.5),
            "n": np.int64(3),
            "row": np.arange(2),
            "path": Path("/x"),
            "nothing": float("nan"),
            "name": "µV",
        }
    )
    text = capsys.readouterr().out
    assert text.count("\n") == 1
    assert json.loads(text) == {"auc": 0.5, "n": 3, "row": [0, 1], "path": "/x", "nothing": None, "name": "µV"}


def test_a_configuration_without_problems_is_printed_as_it_is_in_force(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "c.toml"
    file.write_text("[node]\nname = 'bed-1'\n[broker]\nport = 8883\n[broker.tls]\n")
    assert main(["check-config", str(file)]) == 0
    assert "  broker.port = 8883\n" in capsys.readouterr().out
    assert main(["check-config", str(file), "--json"]) == 0
    result = json.loads(capsys.readouterr().out)
    assert (result["ok"], result["problems"], result["source"]) == (True, [], str(file))
    assert result["settings"]["node.name"] == "bed-1"
    assert result["settings"]["broker.tls.ca_file"] is None


def test_an_unknown_key_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "c.toml"
    file.write_text("[broker]\nhots = 'x'\n")
    assert main(["check-config", str(file)]) == 1
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.splitlines()[1:] == ["  broker.hots: unknown key; did you mean host?"]


def test_problems_of_files_and_of_the_model_are_told_too(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "c.toml"
    file.write_text("[broker]\nusername = 'u'\npassword_file = 'none'\n[model]\nbundle = 'none'\n")
    assert main(["check-config", str(file), "--json"]) == 1
    problems = json.loads(capsys.readouterr().out)["problems"]
    assert [problem.split(":")[0] for problem in problems] == ["broker.password_file", "model.bundle"]


def test_what_the_configuration_says_of_classes_is_held_against_the_model(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "c.toml"
    file.write_text(
        "[alerts.classes.AFIB]\non = 0.5\n[alerts.classes.NORM]\non = 0.5\n[alerts.classes.MI]\noff = 0.99\n"
    )
    assert main(["check-config", str(file), "--json"]) == 1
    problems = json.loads(capsys.readouterr().out)["problems"]
    assert [problem.split(":")[0] for problem in problems] == [
        f"alerts.classes.{name}" for name in ("AFIB", "NORM", "MI")
    ]


def test_the_sample_and_the_reference_are_printed(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["check-config", "--sample"]) == 0
    assert capsys.readouterr().out == sample_toml()
    assert main(["check-config", "--reference", "--json"]) == 0
    assert "| `port` |" in json.loads(capsys.readouterr().out)["reference"]


def test_python_dash_m_edge_is_the_same_program() -> None:
    ended = subprocess.run([sys.executable, "-m", "edge", "--version"], capture_output=True, text=True, check=True)
    assert ended.stdout == f"ecg-edge {__version__}\n"


def test_a_trainer_command_on_a_device_says_what_to_install(tmp_path):
    hidden = (
        "import sys; sys.modules['torch'] = None; from trainer.cli import main; raise SystemExit(main(['presets']))"
    )
    done = subprocess.run([sys.executable, "-c", hidden], capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert done.stderr.splitlines() == ["ecg-trainer: error: torch is not installed; pip install 'ecg-edge[trainer]'"]
