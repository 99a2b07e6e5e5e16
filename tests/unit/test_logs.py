"""Logs: one form for our own records and for those of libraries."""

from __future__ import annotations

import io
import json
import logging
import os
from collections.abc import Iterator
from pathlib import Path

import pytest
import structlog

from edge.cli.output import fail
from edge.daemon.logs import set_up_logging
from edge.journal import is_journal
from tests.logging_state import logging_restored


@pytest.fixture(autouse=True)
def logging_as_before() -> Iterator[None]:
    with logging_restored():
        yield


def test_our_records_and_a_librarys_are_json_lines() -> None:
    stream = io.StringIO()
    set_up_logging("info", "auto", stream)
    structlog.get_logger("edge.x").info("stream_started", device="bed-1")
    logging.getLogger("somelib").warning("careful: %d", 3)
    structlog.get_logger("edge.x").debug("too_small_to_say")
    ours, theirs = (json.loads(line) for line in stream.getvalue().splitlines())
    assert (ours["event"], ours["device"], ours["level"], ours["logger"]) == (
        "stream_started",
        "bed-1",
        "info",
        "edge.x",
    )
    assert (theirs["event"], theirs["level"], theirs["logger"]) == ("careful: 3", "warning", "somelib")
    assert ours["timestamp"].endswith("Z")


def test_an_exception_stays_in_its_line() -> None:
    stream = io.StringIO()
    set_up_logging("info", "json", stream)
    try:
        raise ValueError("broken lead")
    except ValueError:
        structlog.get_logger().exception("inference_failed")
    (line,) = stream.getvalue().splitlines()
    assert "ValueError: broken lead" in json.loads(line)["exception"]


def test_the_console_form_is_for_people() -> None:
    stream = io.StringIO()
    set_up_logging("debug", "console", stream)
    structlog.get_logger().debug("hello", streams=2)
    assert "hello" in stream.getvalue()
    assert "streams=2" in stream.getvalue()
    assert "\x1b" not in stream.getvalue(), "no colours where there is no terminal"


def test_the_journal_gets_priorities(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with (tmp_path / "journal").open("w+") as journal:
        status = os.fstat(journal.fileno())
        monkeypatch.setenv("JOURNAL_STREAM", f"{status.st_dev}:{status.st_ino}")
        assert is_journal(journal)
        set_up_logging("debug", "auto", journal)
        logger = structlog.get_logger()
        logger.error("a")
        logger.info("b")
        logger.debug("c")
        journal.seek(0)
        assert [line[:4] for line in journal] == ["<3>{", "<6>{", "<7>{"]
    assert not is_journal(io.StringIO())


def test_why_a_start_failed_is_an_error_in_the_journal(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with (tmp_path / "journal").open("w+") as journal:
        status = os.fstat(journal.fileno())
        monkeypatch.setattr("sys.stderr", journal)
        fail("ecg-edge", "it cannot start")
        monkeypatch.setenv("JOURNAL_STREAM", f"{status.st_dev}:{status.st_ino}")
        fail("ecg-edge", "it cannot start")
        journal.seek(0)
        assert journal.read() == "ecg-edge: error: it cannot start\n<3>ecg-edge: error: it cannot start\n"
