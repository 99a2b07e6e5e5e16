"""A run of the benchmark as tables for people: ratios first, then what they are made of."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from rich.box import SIMPLE
from rich.console import Console
from rich.table import Table

Result = dict[str, Any]
Cell = tuple[str, Any, str]
"""Heading, value, format of a number."""

Noted = tuple[Table, list[str]]
"""A table and the lines below it."""

WORDS = {
    "native_over_onnx": "the native kernel over ONNX Runtime",
    "native_over_window": "the native kernel over recomputing the window in ONNX Runtime, at a hop of half a second",
    "native_over_window_at_bundle_hop": "the same at the bundle's hop",
}


def show(result: Result, console: Console) -> None:
    """Print what was measured."""
    machine, model = result["machine"], result["model"]
    console.print(f"{machine['processor']}, {machine['cores']} cores, {machine['memory_gb']:.0f} GB; {machine['date']}")
    console.print(f"{model['name']} {model['version']}, a hop of {model['hop_s']:g} s")
    if result["warning"]:
        console.print(f"[bold yellow]{result['warning']}[/]")
    for table, notes in tables_of(result):
        console.print(table)
        for note in notes:
            console.print(note, style="dim")


def tables_of(result: Result) -> list[Noted]:
    """Return a table for each part that was measured, each with what there is to know of it."""
    made = [ratios_table(result)] if "cold_start" in result else []
    if "runtimes" in result:
        made += [runtimes_table(result), steps_table(result), rivals_table(result)]
    if "daemon" in result:
        made += [tries_table("the daemon", result["daemon"]["tries"])]
        made += [tries_table("a client that only counts", result["daemon"]["bare_client"]["tries"])]
    if "load" in result:
        made += [tries_table("the daemon", [result["load"]]), parts_table(result["load"])]
    return [(table, notes) for table, notes in made if table.row_count]


def ratios_table(result: Result) -> Noted:
    """Return the run in a few lines."""
    table = Table(title="in short", box=SIMPLE, show_header=False, title_justify="left")
    table.add_column(justify="right")
    table.add_column()
    for words, number in _headlines(result):
        if number is not None:
            table.add_row(number, words)
    return table, []


def runtimes_table(result: Result) -> Noted:
    """Return a line for every runtime."""
    rows: list[list[Cell]] = [
        [
            ("runtime", runtime["name"], ""),
            ("streams per core", runtime["streams_per_core"], ",.0f"),
            ("of the limit", runtime.get("fraction_of_limit"), ".0%"),
            ("at batch", runtime["best_batch"], "d"),
            ("ms per hop", runtime["ms_per_hop"], ".3f"),
            ("KB per stream", runtime.get("start", {}).get("memory_kb_per_stream"), ".0f"),
            ("MB", runtime.get("start", {}).get("resident_mb"), ".0f"),
            ("s to first score", runtime.get("start", {}).get("first_score_s"), ".2f"),
        ]
        for runtime in result["runtimes"].values()
    ]
    limit = result["limit"]["streams_per_core"]
    notes = [] if limit is None else [f"A core's multiply-adds and exponentials allow {limit:,.0f} streams."]
    return _table("runtimes", rows, [*notes, *(f"{why}." for why in result["missing_runtimes"].values())])


def steps_table(result: Result) -> Noted:
    """Return milliseconds of a step by length, batch and runtime."""
    rows: dict[tuple[int, int], list[Cell]] = {}
    for name, runtime in result["runtimes"].items():
        for step in runtime["steps"]:
            row = rows.setdefault(
                (step["samples"], step["batch"]), [("samples", step["samples"], "d"), ("batch", step["batch"], "d")]
            )
            row.append((f"{name}, ms", step["ms"], ".3f"))
    notes = [f"{length['samples']} samples: {length['note']}." for length in result["lengths"]]
    return _table("a step", list(rows.values()), notes)


def rivals_table(result: Result) -> Noted:
    """Return what would be done otherwise."""
    rows: list[list[Cell]] = [
        [
            ("otherwise", rival["what"], ""),
            ("streams per core", rival["streams_per_core"], ",.0f"),
            ("ours over it", rival["ours_over_it"], ".1f×"),
            ("at half a second", rival["ours_over_it_at_half_second"], ".1f×"),
            ("", rival.get("missing", ""), ""),
        ]
        for rival in result["rivals"].values()
    ]
    return _table("instead", rows)


def tries_table(title: str, tries: list[Result]) -> Noted:
    """Return a line for every number of streams that was tried."""
    rows: list[list[Cell]] = [
        [
            ("streams", row["streams"], "d"),
            ("messages/s", row["messages_per_s"], ".0f"),
            ("median ms", row.get("latency_ms", {}).get("median"), ".1f"),
            ("p99 ms", row.get("latency_ms", {}).get("p99"), ".1f"),
            ("CPU %", row["cpu_percent"], ".0f"),
            ("broker %", row["broker_cpu_percent"], ".0f"),
            ("load %", row["load_cpu_percent"], ".0f"),
            ("MB", row.get("memory_mb"), ".0f"),
            ("", row["why_not"] or "held", ""),
        ]
        for row in sorted(tries, key=lambda row: int(row["streams"]))
    ]
    return _table(title, rows)


def parts_table(load: Result) -> Noted:
    """Return a line for every part of the time of one load."""
    rows: list[list[Cell]] = [
        [
            ("until s", part["until_s"], ".0f"),
            ("median ms", part["latency_ms"].get("median"), ".1f"),
            ("p99 ms", part["latency_ms"].get("p99"), ".1f"),
            ("longest ms", part["latency_ms"].get("max"), ".1f"),
            ("CPU %", part["cpu_percent"], ".0f"),
            ("MB", part["memory_mb"], ".1f"),
        ]
        for part in load["parts"]
    ]
    notes = [
        f"{load['sent']:,} chunks sent, {load['acknowledged']:,} acknowledged; "
        f"{load['scores']:,} scores of {load['scores_due']:,}.",
        f"{load['ill_share']:.0%} of the patients fall ill and recover every minute.",
    ]
    return _table("as time went on", rows, notes)


def _headlines(result: Result) -> list[tuple[str, str | None]]:
    daemon, start, limit = result.get("daemon", {}), result["cold_start"], result.get("limit", {})
    ratios = {name: ratio for name, ratio in result.get("ratios", {}).items() if name in WORDS}
    lines = [(WORDS[name], _number(ratio, ".1f×")) for name, ratio in ratios.items()]
    return [
        *lines,
        ("of the core's limit", _number(limit.get("fraction"), ".0%")),
        ("of the messages of a client that only counts", _number(daemon.get("messages_over_bare_client"), ".0%")),
        ("streams held by one daemon", _number(daemon.get("streams"), ",d")),
        ("ms at the 99th percentile then", _number(daemon.get("p99_ms"), ".1f")),
        ("% of a core per 1,000 streams", _number(daemon.get("cpu_percent_per_1000_streams"), ".1f")),
        ("MB per 1,000 streams", _number(daemon.get("memory_mb_per_1000_streams"), ".1f")),
        ("s to import edge", _number(start.get("import_edge_s"), ".3f")),
        ("s from a new process to a score", _number(start.get("first_score_s"), ".2f")),
        ("s until the daemon listens", _number(start.get("daemon_ready_s"), ".2f")),
        ("s until its first score", _number(start.get("daemon_first_score_s"), ".2f")),
    ]


def _table(title: str, rows: list[list[Cell]], notes: Sequence[str] = ()) -> Noted:
    table = Table(title=title, box=SIMPLE, title_justify="left")
    for heading, _, form in rows[0] if rows else []:
        table.add_column(heading, justify="right" if form else "left")
    for row in rows:
        table.add_row(*(_number(value, form) or "" for _, value, form in row))
    return table, list(notes)


def _number(value: Any, form: str) -> str | None:
    if value is None or not form:
        return None if value is None else str(value)
    return f"{value:{form.rstrip('×')}}{'×' if form.endswith('×') else ''}"
