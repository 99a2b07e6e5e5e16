"""A child process: stopped at the end, also when we are told to end in the very moment it is made."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from edge.demo import child

SLEEPER = [sys.executable, "-c", "import time; time.sleep(60)"]
DEAF = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('deaf', flush=True); time.sleep(60)"


def is_there(pid):
    return Path(f"/proc/{pid}").exists()


def test_a_child_is_gone_at_the_end():
    with child.running_child(SLEEPER, 10.0) as process:
        assert process.poll() is None
    assert process.returncode == -signal.SIGTERM


def test_a_child_that_does_not_listen_is_killed():
    with child.running_child([sys.executable, "-c", DEAF], 0.1, output=subprocess.PIPE) as process:
        assert process.stdout.readline() == b"deaf\n"
    process.stdout.close()
    assert process.returncode == -signal.SIGKILL


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_while_the_child_is_made_ends_the_child_too(monkeypatch, number):
    made, before = [], signal.signal(number, signal.default_int_handler)

    class Popen(subprocess.Popen):
        def __init__(self, *arguments, **options):
            super().__init__(*arguments, **options)
            made.append(self)
            os.kill(os.getpid(), number)

    monkeypatch.setattr(subprocess, "Popen", Popen)
    try:
        with pytest.raises(KeyboardInterrupt), child.running_child(SLEEPER, 10.0):
            pytest.fail("the signal was lost")
    finally:
        signal.signal(number, before)
    assert made[0].returncode == -signal.SIGTERM
    assert not is_there(made[0].pid)


def test_a_program_that_is_not_there_leaves_the_signals_as_they_were():
    before = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
    with pytest.raises(FileNotFoundError), child.running_child(["/nowhere/to/be/found"], 1.0):
        pytest.fail("it ran")
    assert [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)] == before
