"""Alerts on scored streams: counted as the daemon would raise them, and tuned on what did not measure them."""

from __future__ import annotations

from dataclasses import replace

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.special import logit

from edge.alerts.events import State
from edge.alerts.policy import AlertPolicy
from edge.daemon.alert_settings import alert_policy
from edge.daemon.config import AlertsConfig
from edge.runtime.manifest import Calibration, OperatingPoint
from tests.tiny_bundle import tiny_manifest
from trainer.streams.alerts import Replayed, detection, poisson_interval, policy_of, replay, replay_all
from trainer.streams.curve import operating_curve
from trainer.streams.plan import RESTLESS, STEADY, SWITCHES, Episode, Plan, PlanSettings
from trainer.streams.search import Candidates, candidates, off_below, try_all
from trainer.streams.traces import Streams, Trace
from trainer.streams.tune import tune_alerts

IDENTITY = Calibration(scale=[1.0, 1.0], bias=[0.0, 0.0])
POLICY = AlertPolicy(("NORM", "MI"), {}, hop_s=1.0, window_s=10.0, max_raises_per_hour=10_000)
GRID = Candidates(np.array([0.5, 0.7]), np.array([0.38, 0.6]), [1.0, 3.0])


def manifest_of(**changes):
    points = {name: OperatingPoint(0.5, 0.5, 0.38, 3.0) for name in ("NORM", "MI")}
    return tiny_manifest(["NORM", "MI"], calibration=IDENTITY, operating_points=points, **changes)


def trace_of(probabilities, kind=STEADY, half=0, episodes=(), good=None, warm_hops=0):
    """A stream of two classes; NORM is never in question."""
    hops = len(probabilities)
    p = np.clip(np.asarray(probabilities, dtype=np.float64), 1e-6, 1 - 1e-6)
    logits = np.stack([np.zeros(hops), logit(p)], axis=1).astype(np.float32)
    plan = Plan(kind, half, np.zeros(hops // 10, dtype=np.int64), tuple(episodes))
    ready = np.arange(hops) >= warm_hops
    return Trace(plan, logits, ready, np.ones(hops, dtype=bool) if good is None else np.asarray(good), 1.0)


def streams_of(*traces, **options):
    return Streams(list(traces), PlanSettings(**{"passes": 1, "patient_s": 20.0, **options}), "matched")


def episode_at(hop):
    return Episode(hop // 10, "MI")


def replayed(*traces, **options):
    return replay_all(manifest_of(), streams_of(*traces, **options))


def test_every_raise_on_a_healthy_stream_is_a_false_alert():
    two = [0.1] * 20 + [0.9] * 10 + [0.1] * 50 + [0.9] * 10 + [0.1] * 10
    found = replayed(trace_of(two), trace_of([0.1] * 100), trace_of([0.9] * 50, kind=RESTLESS)).false_alerts(
        "MI", STEADY
    )
    assert (found.alerts, found.hours) == (2, 200 / 3600)
    assert found.per_hour == pytest.approx(36.0)
    assert found.open_share == pytest.approx(20 / 200)  # raised 3 hops late, cleared 3 hops late


def test_a_delay_counts_from_the_switch_to_the_end_of_the_hop_that_raises():
    quick = trace_of([0.1] * 20 + [0.9] * 20 + [0.1] * 20, SWITCHES, episodes=[episode_at(20)])
    slow = trace_of([0.1] * 28 + [0.9] * 12 + [0.1] * 20, SWITCHES, episodes=[episode_at(20)])
    missed = trace_of([0.1] * 41 + [0.9] * 19, SWITCHES, episodes=[episode_at(20)])
    seen = replayed(quick, slow, missed).detection("MI")
    assert (seen.episodes, seen.detected, seen.undetected_share) == (3, 2, pytest.approx(1 / 3))
    assert (seen.median_s, seen.median_of_all_s) == (7.0, 11.0)


def test_an_alert_that_was_open_before_the_switch_detects_nothing():
    seen = replayed(trace_of([0.9] * 60, SWITCHES, episodes=[episode_at(20)])).detection("MI")
    assert (seen.episodes, seen.detected, seen.already_open) == (1, 0, 1)


def test_passes_over_the_same_records_do_not_narrow_an_interval():
    raised = [0.1] * 20 + [0.9] * 10 + [0.1] * 70
    once = replayed(trace_of(raised, RESTLESS)).false_alerts("MI", RESTLESS)
    twice = replayed(trace_of(raised, RESTLESS), trace_of(raised, RESTLESS), passes=2).false_alerts("MI", RESTLESS)
    assert twice.alerts == 2 * once.alerts
    assert twice.per_hour == pytest.approx(once.per_hour)
    assert twice.interval == pytest.approx(once.interval)


def test_poisson_intervals_are_the_exact_ones():
    assert poisson_interval(0) == (0.0, pytest.approx(3.689, abs=1e-3))  # Garwood 1936
    assert poisson_interval(10) == (pytest.approx(4.795, abs=1e-3), pytest.approx(18.39, abs=1e-2))


def test_a_median_over_all_episodes_is_null_when_more_than_half_are_missed():
    assert detection(np.array([4.0, np.inf, np.inf])).median_of_all_s is None
    assert detection(np.array([4.0, 6.0, np.inf])).median_of_all_s == 6.0
    assert detection(np.array([])).undetected_share is None


probabilities = st.lists(st.sampled_from([0.1, 0.39, 0.55, 0.65, 0.9]), min_size=60, max_size=120)


@given(probabilities, st.lists(st.integers(0, 119), max_size=30), st.integers(0, 12))
@settings(max_examples=60)
def test_the_search_raises_exactly_where_the_daemon_does(p, bad, warm_hops):
    good = [k not in bad for k in range(len(p))]
    trace = trace_of(p, SWITCHES, episodes=[episode_at(20)], good=good, warm_hops=warm_hops)
    policy = replace(POLICY, refractory_s=15.0)
    outcome = try_all([trace], "MI", policy, IDENTITY, GRID, 20.0)
    for dwell, on in np.ndindex(2, 2):
        points = dict.fromkeys(("NORM", "MI"), GRID.point((dwell, on), 0.5))
        changes = replay(trace, replace(policy, points=points), IDENTITY)
        assert outcome.raises[dwell, on, 0] == sum(change.state is State.RAISED for change in changes)
        expected = Replayed(streams_of(trace), [trace], [changes]).detection("MI")
        assert detection(outcome.delays_s[dwell, on]) == expected


def test_candidates_are_operating_points_a_manifest_takes():
    grid = candidates(1.0)
    for at in [(0, 0), (len(grid.dwell_s) - 1, len(grid.on) - 1)]:
        point = grid.point(at, 0.4)
        assert 0 < point.off < point.on < 1
        assert msgspec.convert(msgspec.to_builtins(point), OperatingPoint) == point
    assert candidates(2.0).dwell_s == [2.0, 4.0]
    assert off_below(np.array(0.5)) == pytest.approx(0.377541)


def noisy_ward(rng, level, half):
    """Healthy streams with spikes of a known height, and ill ones that rise to 0.8 in five seconds."""
    healthy = [np.where(rng.random(600) < 0.01, level, 0.1) for _ in range(2)]
    ill = np.concatenate([np.full(60, 0.1), np.linspace(0.1, 0.8, 5), np.full(15, 0.8)])
    switches = [trace_of(np.tile(ill, 3), SWITCHES, half, [episode_at(60 + 80 * k) for k in range(3)])]
    kinds = (RESTLESS, STEADY)
    return [*(trace_of(p, kind, half) for p, kind in zip(healthy, kinds, strict=True)), *switches]


def test_tuning_finds_the_soonest_point_that_raises_no_false_alert():
    rng = np.random.default_rng(0)
    streams = streams_of(*noisy_ward(rng, 0.3, 0), *noisy_ward(rng, 0.3, 1))
    tuned = tune_alerts(manifest_of(), streams, budget=0.5)
    point = tuned.points["MI"]
    assert 0.3 < point.on <= 0.8
    assert point.f1_threshold == 0.5
    figures = tuned.crossfit["MI"]
    assert all(rate.alerts == 0 for rate in figures.false_alerts.values())
    assert figures.detection.detected == 6
    assert figures.detection.median_s <= 4.0
    assert tuned.notes == []


def test_a_tighter_budget_never_measures_more_detections_on_its_own_streams():
    rng = np.random.default_rng(1)
    streams = streams_of(*noisy_ward(rng, 0.75, 0), *noisy_ward(rng, 0.75, 1))
    curve = tune_alerts(manifest_of(), streams, budget=1.0).trade_off["MI"]
    assert [row.budget_per_hour for row in curve] == sorted(row.budget_per_hour for row in curve)
    delays = [row.median_of_all_s or np.inf for row in curve]
    assert delays == sorted(delays, reverse=True)


def test_figures_come_from_the_half_that_did_not_choose():
    rng = np.random.default_rng(2)
    quiet, loud = noisy_ward(rng, 0.3, 0), noisy_ward(rng, 0.7, 1)
    tuned = tune_alerts(manifest_of(), streams_of(*quiet, *loud), budget=1.0)
    # Thresholds that the quiet half chose let the loud half's spikes through.
    assert sum(rate.alerts for rate in tuned.crossfit["MI"].false_alerts.values()) > 0
    own = replay_all(msgspec.structs.replace(manifest_of(), operating_points={
        "NORM": OperatingPoint(0.5, 0.5, 0.38, 3.0), "MI": tuned.points["MI"]}), streams_of(*quiet, *loud))  # fmt: skip
    assert own.false_alerts("MI", STEADY).per_hour <= 1.0


def test_a_class_without_episodes_keeps_its_thresholds():
    streams = streams_of(trace_of([0.1] * 100), trace_of([0.1] * 100, half=1), trace_of([0.1] * 100, RESTLESS))
    tuned = tune_alerts(manifest_of(), streams, budget=1.0)
    assert tuned.points == {}
    assert [note.split()[0] for note in tuned.notes] == ["MI"]


def at_point(on, off, dwell_s):
    points = {"NORM": OperatingPoint(0.5, 0.5, 0.38, 3.0), "MI": OperatingPoint(0.5, on, off, dwell_s)}
    return msgspec.structs.replace(manifest_of(), operating_points=points)


def test_a_curve_falls_with_the_threshold_and_holds_what_the_daemon_would_do():
    rng = np.random.default_rng(3)
    streams = streams_of(*noisy_ward(rng, 0.6, 0), *noisy_ward(rng, 0.6, 1))
    curve = operating_curve(at_point(0.5, 0.38, 1.0), streams, "MI")
    rates = [point.per_hour[STEADY] for point in curve if point.off > 0.1]  # below that none clears to be raised again
    assert rates == sorted(rates, reverse=True)
    assert rates[0] > 0.0
    assert rates[-1] == 0.0
    assert curve[-1].detected_share == 0.0
    middle = next(point for point in curve if point.on == 0.5)
    daemon = replay_all(at_point(middle.on, middle.off, 1.0), streams)
    assert middle.per_hour[STEADY] == pytest.approx(daemon.false_alerts("MI", STEADY).per_hour)
    assert (middle.median_s, middle.p95_s) == (daemon.detection("MI").median_s, daemon.detection("MI").p95_s)


def test_the_policy_of_an_evaluation_is_the_daemons_own():
    assert policy_of(manifest_of()) == alert_policy(AlertsConfig(), manifest_of())
