"""The demo's view: what is known is seen, at any width."""

from __future__ import annotations

import io
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from edge.demo.demo import Demo, save_picture
from edge.demo.sources import Source
from edge.demo.view import BRAILLE_BLANK, bar, render, strip
from edge.demo.watcher import Picture, StreamPicture

ALERT = {
    "device": "bed-1", "state": "raised", "code": "mi", "priority": "high", "probability": 0.81, "reason": None,
    "at": {"i": 1200}, "id": "0123456789",
}  # fmt: skip
STREAM = StreamPicture(
    "bed-1", "s", "ready", 0.97, {"NORM": 0.11, "MI": 0.81}, tuple(np.sin(np.arange(300) / 9)), ("mi",)
)
PICTURE = Picture(
    (STREAM, StreamPicture("bed-2", "s")),
    (ALERT,),
    10,
    20,
    1,
    {"p50": 3.2, "p99": 9.0},
    "ecg-mamba-0.1.0",
    "onnxruntime",
)
EMPTY = Picture((), (), 0, 0, 0, {"p50": None, "p99": None}, "", "")


FULL = {"NORM": 0.11, "MI": 0.81, "STTC": 0.33, "CD": 0.02, "HYP": 0.46}


def text_of(picture, width, height=30):
    console = Console(width=width, file=io.StringIO(), force_terminal=False)
    console.print(render(picture, "SIMULATED patients, not real ECG", 12.0, 40.0, width, height))
    return console.file.getvalue()


@pytest.mark.parametrize("width", [100, 112, 140])
def test_streams_alerts_source_and_the_notice_are_seen(width):
    text = text_of(PICTURE, width)
    for seen in ("bed-1", "bed-2", "starting", "0.81", "0.97", "● alert", "raised", "mi", "high", "12/40 s", "3 ms",
                 "ecg-mamba-0.1.0", "SIMULATED", "Not a medical device"):  # fmt: skip
        assert seen in text
    assert max(map(len, text.splitlines())) <= width


@pytest.mark.parametrize("width", range(64, 150))
def test_no_class_is_cut_off_at_any_width(width):
    text = text_of(replace(PICTURE, streams=(replace(STREAM, probabilities=FULL),)), width)
    for name, probability in FULL.items():
        assert name in text
        assert f"{probability:.2f}" in text
    assert "●" in text
    assert max(map(len, text.splitlines())) <= width


@pytest.mark.parametrize(("height", "devices"), [(24, 4), (24, 12), (30, 4), (30, 6)])
def test_the_notice_and_the_source_stay_in_sight_on_a_low_terminal(height, devices):
    streams = tuple(replace(STREAM, device=f"bed-{k}") for k in range(devices))
    lines = text_of(replace(PICTURE, streams=streams, log=(ALERT,) * 20), 80, height).splitlines()
    seen = "\n".join(lines[:height])
    assert "Not a medical device" in seen
    assert "SIMULATED" in seen
    assert len(lines) <= height or devices > 6


def test_a_demo_that_has_just_begun_can_be_drawn():
    assert "none yet" in text_of(EMPTY, 100)


@given(st.floats(-1, 2), st.integers(1, 20))
def test_a_bar_is_as_long_as_its_probability(probability, cells):
    drawn = bar(probability, cells)
    assert len(drawn) == cells
    assert drawn.count("█") == int(round(min(max(probability, 0), 1) * cells * 8) / 8)


@given(st.lists(st.floats(-9, 9), max_size=400), st.integers(1, 40))
def test_a_strip_has_its_size_whatever_the_signal(samples_mv, cells):
    lines = strip(samples_mv, cells).split("\n")
    assert [len(line) for line in lines] == [cells, cells]
    assert all(BRAILLE_BLANK <= ord(c) <= BRAILLE_BLANK + 0xFF for line in lines for c in line)


def test_a_strip_goes_up_where_the_signal_does():
    low, high = strip([0.0] * 50 + [1.4] * 50, 10).split("\n")[::-1]
    assert high[8] != chr(BRAILLE_BLANK) == high[1]
    assert low[1] != chr(BRAILLE_BLANK) == low[8]


def test_the_picture_is_an_svg_that_needs_no_network(tmp_path):
    demo = Demo(Source("PTB-XL records", "ptb-xl", {}), 40.0, 3.0)
    save_picture(tmp_path / "demo.svg", demo, PICTURE)
    svg = (tmp_path / "demo.svg").read_text()
    assert svg.startswith("<svg")
    assert "font-face" not in svg
    assert "bed-1" in svg


def test_an_open_technical_condition_stands_below_the_state():
    stream = replace(STREAM, open_alerts=("lead_off", "mi"))
    assert "lead_off" in text_of(replace(PICTURE, streams=(stream,), log=()), 112)
    silent = replace(STREAM, open_alerts=("stream_silent",))
    assert "stream_…" in text_of(replace(PICTURE, streams=(silent,), log=()), 112)
