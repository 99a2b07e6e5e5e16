"""The benchmark's arithmetic, its tables, and one small run of its runtimes' part."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from edge.bench import BenchError, stand
from edge.bench.daemon import Tries, summary_of
from edge.bench.effort import QUICK, Effort, RuntimeEffort
from edge.bench.limit import Peak, Work, limit_of
from edge.bench.load import growth_ms, is_ill
from edge.bench.report import limit_of_native, ratios_of
from edge.bench.rivals import Rival, load_rivals, measure_rivals, onnx_window
from edge.bench.runtimes import row_of, step_lengths
from edge.bench.search import most_that_holds
from edge.bench.table import show, tables_of
from edge.bench.timing import Timed, least_seconds
from edge.bench.tries import why_not_held
from edge.cli import main
from edge.runtime.bundle import load_bundle
from edge.runtime.select import open_runtime
from tests.tiny_bundle import tiny_bundle

TINY = RuntimeEffort(
    seconds=0.0, batches=(1, 2), lengths=(50,), rival_batches=(1,), every_width=True, starts=1, streams=64
)
HELD = {
    "acknowledged": 24, "sent": 24, "scores": 12, "scores_due": 12, "growth_ms": 0.3,
    "latency_ms": {"median": 4.0, "p99": 9.0, "max": 12.0}, "late_ms": {"median": 1.0, "p99": 3.0, "max": 4.0},
}  # fmt: skip


def row(streams: int, held: bool = True, **figures: Any) -> dict[str, Any]:
    """One try as `edge.bench.tries` reports it."""
    common = {"latency_ms": HELD["latency_ms"], "cpu_percent": 10.0, "broker_cpu_percent": 5.0, "load_cpu_percent": 5.0}
    why = None if held else "p99 latency 300 ms"
    return {"streams": streams, "held": held, "why_not": why, "messages_per_s": 2.0 * streams} | common | figures


@given(limit=st.integers(0, 20_000), first=st.integers(1, 5000), resolution=st.floats(1.05, 3.0))
def test_the_search_ends_close_below_the_least_that_fails(limit: int, first: int, resolution: float) -> None:
    tried: list[int] = []

    def holds(number: int) -> bool:
        tried.append(number)
        return number <= limit

    held = most_that_holds(holds, first, resolution)
    assert held <= limit
    assert len(tried) == len(set(tried)) < 40
    assert held in tried or not held
    failed = min((number for number in tried if number > limit), default=None)
    assert failed is not None or held == limit == 0
    assert failed is None or failed <= max(held * resolution, held + 1)


def test_the_search_ends_when_it_may_not_go_on() -> None:
    assert most_that_holds(lambda _: True, 100, 1.1, lambda: False) == 100


def test_a_number_that_fails_is_tried_again_and_the_tries_are_kept() -> None:
    outcomes = iter([row(100, held=False), row(100), row(200, held=False), row(200, held=False), row(141)])
    said: list[str] = []
    tries = Tries("daemon", lambda _: next(outcomes), 2, said.append)
    assert tries.search(100, 1.5, seconds=60.0) == 141
    assert [(r["streams"], r["held"]) for r in tries.rows] == [(100, True), (200, False), (141, True)]
    assert said[0] == "daemon: 100 streams not held: p99 latency 300 ms"


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({}, None),
        ({"acknowledged": 23}, "23 of 24 chunks"),
        ({"scores": 10}, "2 of 12 scores were missing"),
        ({"latency_ms": {"median": 4.0, "p99": 100.0, "max": 100.0}}, "p99 latency 100 ms"),
        ({"growth_ms": 11.0}, "the lag grew, by 11 ms"),
        ({"late_ms": {"median": 1.0, "p99": 200.0, "max": 200.0}}, "the load generator was late itself"),
    ],
)
def test_a_load_is_held_when_nothing_is_lost_or_late_and_the_lag_does_not_grow(
    change: dict[str, Any], words: str | None
) -> None:
    why = why_not_held(HELD | change)
    assert why == words if words is None else words in (why or "")


@given(devices=st.integers(1, 500), share=st.sampled_from([0.0, 0.05, 0.1, 0.5, 1.0]))
def test_as_many_devices_have_an_ill_patient_as_the_share_says(devices: int, share: float) -> None:
    ill = [is_ill(device, share) for device in range(devices)]
    assert abs(sum(ill) - devices * share) < 1
    assert share > 0 or not any(ill)


def test_a_lag_grows_by_the_difference_of_its_thirds() -> None:
    sent_s = np.arange(90) / 10
    assert growth_ms(sent_s, np.full(90, 0.004)) == 0
    assert growth_ms(sent_s, np.arange(90) * 0.001) == pytest.approx(60.0, abs=1.0)
    assert growth_ms(np.array([]), np.array([])) == 0


def test_what_a_thousand_streams_cost_is_the_slope_from_the_fewest_to_the_most() -> None:
    rows = [
        row(1, cpu_percent=2.0, memory_mb=60.0),
        row(2001, cpu_percent=62.0, memory_mb=160.0),
        row(4000, held=False),
    ]
    result = summary_of(rows, [row(4002, cpu_percent=31.0)], 2001, 4002)
    assert (result["streams"], result["p99_ms"], result["limited_by"]) == (2001, 9.0, "p99 latency 300 ms")
    assert result["cpu_percent_per_1000_streams"] == pytest.approx(30.0)
    assert result["memory_mb_per_1000_streams"] == pytest.approx(50.0)
    assert result["messages_over_bare_client"] == pytest.approx(0.5)
    assert result["messages_per_cpu_over_bare_client"] == pytest.approx(0.25)
    assert result["bare_client"]["limited_by"] == "no more were tried"


def test_where_nothing_was_held_there_is_no_ratio() -> None:
    result = summary_of([row(1, held=False)], [row(2, held=False)], 0, 0)
    assert (result["streams"], result["p99_ms"], result["messages_over_bare_client"]) == (0, None, None)


def test_the_limit_is_how_many_hops_a_core_computes_in_the_time_of_one() -> None:
    limit = limit_of("avx2", Peak(100.0, 10.0), Work(50, 20), hop_s=0.5)
    assert limit.streams_per_core == pytest.approx(0.2)
    assert limit_of_native({"native": {"fraction_of_limit": 0.5}}, {"native": {"streams_per_core": 0.2}}) == {
        "streams_per_core": 0.2,
        "fraction": 0.5,
    }
    assert limit_of_native({"onnxruntime": {}}, {}) == {"streams_per_core": None, "fraction": None}


def test_streams_in_real_time_are_a_batch_s_ecg_over_the_time_it_takes() -> None:
    assert row_of(16, 50, 0.004, 100) == {
        "batch": 16,
        "samples": 50,
        "ms": pytest.approx(4.0),
        "ms_per_stream": pytest.approx(0.25),
        "streams_per_core": pytest.approx(2000.0),
    }


def test_a_length_that_the_stride_does_not_divide_is_said_and_not_invented() -> None:
    lengths = step_lengths(load_bundle().manifest, (10, 25, 50, 100))
    assert [(length["asked"], length["samples"]) for length in lengths] == [(100, 100), (10, 8), (25, 24), (50, 48)]
    assert lengths[1]["note"].startswith("10 samples are not whole strides of 4")


def test_what_is_compared_takes_turns_and_the_least_counts() -> None:
    now, order = [0.0], []

    def work(name: str, *seconds: float) -> Timed:
        times = iter(seconds)

        def call() -> None:
            order.append(name)
            now[0] += next(times, 9.0)

        return Timed(call, lambda: now[0])

    least = least_seconds(0.0, {"a": work("a", 3.0, 2.0), "b": work("b", *[1.0] * 4)})
    assert least == {"a": 2.0, "b": 1.0}
    assert order == (["a"] * 5 + ["b"] * 5) * 2


def test_the_window_at_once_has_the_score_of_the_stream(tmp_path: Path) -> None:
    bundle = tiny_bundle(tmp_path / "without-votes")
    manifest, runtime = bundle.manifest, open_runtime(bundle, "onnxruntime")
    logits, _ = onnx_window(bundle).prepare(2)()
    window = np.random.default_rng(0).standard_normal((2, manifest.window_samples, 12), dtype=np.float32)
    slots = [runtime.open_slot() for _ in range(2)]
    for hop in np.split(window, manifest.window_hops, axis=1):
        streamed = runtime.step(slots, hop)
    assert np.abs(logits - streamed).max() < 1e-4


def test_a_rival_whose_package_is_missing_is_named_with_what_it_lacks() -> None:
    def prepare(batch: int) -> Any:
        raise ModuleNotFoundError("No module named 'torch'", name="torch")

    runtime = open_runtime(load_bundle())
    results = measure_rivals(runtime, [Rival("cnn", "a CNN", prepare)], TINY, lambda _: None)
    assert results["cnn"]["missing"] == "torch is not installed"
    assert results["cnn"]["ours_over_it"] is None


def test_ratios_are_of_the_runtime_that_the_daemon_would_choose() -> None:
    runtimes = {"native": {"streams_per_core": 600.0}, "onnxruntime": {"streams_per_core": 100.0}}
    window = {"ours_over_it": 50.0, "ours_over_it_at_half_second": 99.0}
    cached = {"ours_over_it": 20.0, "ours_over_it_at_half_second": None}
    assert ratios_of("native", runtimes, {"window": window, "cached": cached}) == {
        "native_over_onnx": 6.0,
        "native_over_window": 99.0,
        "native_over_window_at_bundle_hop": 50.0,
        "native_over_cached": 20.0,
    }
    without_native = ratios_of("onnxruntime", {"onnxruntime": {"streams_per_core": 100.0}}, {"window": window})
    assert without_native["native_over_onnx"] is None
    assert without_native["native_over_window"] is None
    assert without_native["onnx_over_window"] == 99.0


def test_a_file_without_rivals_is_refused_in_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "empty.py"
    file.write_text("")
    with pytest.raises(BenchError, match=r"no function rivals\(bundle\)"):
        load_rivals(file, load_bundle())
    assert main(["bench", "--quick", "--only", "runtimes", "--rivals", str(tmp_path / "none.py")]) == 2
    assert capsys.readouterr().err.splitlines()[-1].endswith("--rivals wants one with a function rivals(bundle)")


def test_without_mosquitto_the_daemon_s_part_says_what_to_install(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(stand, "mosquitto_path", lambda: None)
    assert main(["bench", "--quick", "--only", "daemon"]) == 2
    assert "`apt install mosquitto`" in capsys.readouterr().err.splitlines()[-1]


def test_one_run_of_the_runtimes_says_all_it_should(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("edge.cli.bench.QUICK", Effort(TINY, QUICK.daemon))
    monkeypatch.setattr("edge.bench.limit.TRIALS", 3)
    plug_in = tmp_path / "rivals.py"
    plug_in.write_text(
        "from edge.bench.rivals import Rival\n"
        "def rivals(bundle):\n"
        "    return [Rival('idle', 'nothing at all', lambda batch: lambda: sum(range(100)))]\n"
    )
    assert main(["bench", "--quick", "--only", "runtimes", "--rivals", str(plug_in), "--json"]) == 0
    captured = capsys.readouterr()
    result = json.loads(captured.out)
    assert "rivals: a hop at batch 1, window, idle" in captured.err
    assert {"machine", "model", "runtimes", "limit", "rivals", "ratios", "cold_start"} <= result.keys()
    for runtime in result["runtimes"].values():
        assert runtime["streams_per_core"] > 0
        assert runtime["ms_per_hop"] > 0
        assert [(s["batch"], s["samples"]) for s in runtime["steps"]] == [(1, 100), (2, 100), (1, 48), (2, 48)]
    assert result["runtimes"]["onnxruntime"]["start"]["first_score_s"] > 0
    assert result["runtimes"]["onnxruntime"]["start"]["memory_kb_per_stream"] >= 0
    assert {"streams_per_core", "fraction"} <= result["limit"].keys()
    assert {"native_over_onnx", "native_over_window"} <= result["ratios"].keys()
    assert result["rivals"]["idle"]["streams_per_core"] > result["rivals"]["window"]["streams_per_core"]
    if "native" in result["runtimes"]:
        assert result["ratios"]["native_over_onnx"] > 0
        assert result["limit"]["fraction"] > 0
    assert printed(result).count("nothing at all") == 1


def test_the_tables_show_what_there_is_and_leave_out_the_rest() -> None:
    daemon = summary_of(
        [row(1, memory_mb=60.0), row(100, memory_mb=70.0), row(200, held=False, memory_mb=90.0)], [row(400)], 100, 400
    )
    result = {
        "machine": {"processor": "a processor", "cores": 2, "memory_gb": 8.0, "date": "2026-01-01"},
        "model": {"name": "m", "version": "1", "hop_s": 1.0},
        "warning": "this machine is busy",
        "daemon": daemon,
        "cold_start": {"daemon_ready_s": 0.5, "daemon_first_score_s": 0.51},
    }
    assert [table.title for table, _ in tables_of(result)] == ["in short", "the daemon", "a client that only counts"]
    text = printed(result)
    for words in ("this machine is busy", "100   streams held by one daemon", "25%", "p99 latency 300 ms", "0.51"):
        assert words in text


def test_one_load_is_a_line_as_a_whole_and_one_for_each_part() -> None:
    parts = [
        {"until_s": 30.0, "latency_ms": HELD["latency_ms"], "cpu_percent": 80.0, "memory_mb": 160.04},
        {"until_s": 60.0, "latency_ms": {}, "cpu_percent": 81.0, "memory_mb": 160.96},
    ]
    heading = {
        "machine": {"processor": "a processor", "cores": 2, "memory_gb": 8.0, "date": "2026-01-01"},
        "model": {"name": "m", "version": "1", "hop_s": 1.0},
        "warning": None,
    }
    result = {**heading, "load": row(3000, memory_mb=161.0, parts=parts, ill_share=0.05, **HELD)}
    assert [table.title for table, _ in tables_of(result)] == ["the daemon", "as time went on"]
    text = printed(result)
    for words in ("3000", "160.0", "161.0", "24 chunks sent, 24 acknowledged; 12 scores of 12.", "5% of the patients"):
        assert words in text


@pytest.mark.parametrize(
    "argv", [["--streams", "0"], ["--streams", "3", "--only", "daemon"], ["--seconds", "0"], ["--ill-share", "2"]]
)
def test_a_load_that_is_none_is_refused(argv: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["bench", *argv]) == 2
    assert f"error: argument {argv[-2]}" in capsys.readouterr().err


def printed(result: dict[str, Any]) -> str:
    """What the command would print."""
    file = io.StringIO()
    show(result, Console(file=file, width=160))
    return file.getvalue()


def test_a_clock_that_stood_still_says_nothing() -> None:
    readings = iter([0.0, 0.0, 1.0, 1.5])
    timed = Timed(lambda: None, lambda: next(readings))
    assert timed.seconds() == float("inf")
    assert timed.seconds() == 0.5
