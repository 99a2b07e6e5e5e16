"""Technical conditions: raised when they last, cleared when they are gone, never latched."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge.alerts.events import Moment, Point, Priority, Reason, State, decode, encode
from edge.alerts.technical import HELD_S, RULES, SIGNAL_CODES, TechnicalAlerts, TechnicalCode, codes_of
from edge.signal.quality import Issue
from edge.stream.topics import alert_topic

RATE_HZ = 100
NOON_NS = 1_700_000_000_000_000_000


def moment(second: int, session: str = "s1") -> Moment:
    at_ns = NOON_NS + second * 1_000_000_000
    return Moment(session, second * RATE_HZ, RATE_HZ, at_ns, at_ns)


def alerts() -> TechnicalAlerts:
    return TechnicalAlerts("bed-1", "node-1")


def run(machine, code, presence, start=0):
    """Feed one hop a second in which the code is present or not; return (second, state) of each event."""
    seen = []
    for second, present in enumerate(presence, start=start):
        events = machine.observe_hop(moment(second), {code} if present else set(), hop_s=1.0, quality=0.5)
        seen += [(second, event.state) for event in events if event.code == code.value]
    return seen


@pytest.mark.parametrize("code", sorted(SIGNAL_CODES))
def test_a_signal_condition_is_raised_after_it_lasted_and_cleared_after_it_is_gone(code):
    rule = RULES[code]
    lasts, gone = max(1, int(rule.raise_after_s)), int(rule.clear_after_s)
    seen = run(alerts(), code, [True] * lasts + [False] * gone)
    assert [state for _, state in seen if state is not State.UPDATED] == [State.RAISED, State.CLEARED]
    assert (seen[0][0], seen[-1][0]) == (lasts - 1, lasts + gone - 1)


def test_what_does_not_last_is_not_raised():
    assert run(alerts(), TechnicalCode.NOISE, [True, True, False] * 10) == []


def test_a_condition_that_comes_and_goes_stays_one_condition():
    seen = run(alerts(), TechnicalCode.NOISE, [True] * 5 + [False, False, True] * 5)
    assert [state for _, state in seen] == [State.RAISED]


def test_an_event_says_which_condition_since_when_and_how_urgent():
    machine = alerts()
    machine.observe_hop(moment(0), {TechnicalCode.LEAD_OFF}, 1.0, 0.9)
    (event,) = machine.observe_hop(moment(1), {TechnicalCode.LEAD_OFF}, 1.0, 0.9)
    assert (event.kind, event.code, event.class_name, event.priority) == (
        "technical", "lead_off", None, Priority.MEDIUM,
    )  # fmt: skip
    assert (event.onset.i, event.at.i, event.quality, event.revision) == (0, RATE_HZ, 0.9, 0)
    assert event.expires == NOON_NS + 121 * 1_000_000_000
    assert decode(encode(event)) == event


def test_a_lasting_condition_is_updated_so_that_it_does_not_expire():
    seen = run(alerts(), TechnicalCode.NOISE, [True] * 65)
    assert seen == [(4, State.RAISED), (34, State.UPDATED), (64, State.UPDATED)]


def test_gaps_in_a_row_are_one_condition():
    seen = run(alerts(), TechnicalCode.GAP, ([True] + [False] * 20) * 4)
    assert [state for _, state in seen if state is not State.UPDATED] == [State.RAISED]


def test_a_contact_that_comes_and_goes_for_an_hour_is_not_told_of_each_time_and_its_repair_within_a_minute():
    machine = alerts()
    seen = run(machine, TechnicalCode.LEAD_OFF, [True, True, False, False] * 900 + [False] * 60)
    told = [state for _, state in seen if state is not State.UPDATED]
    assert 2 <= len(told) <= 12
    assert seen[-1][1] is State.CLEARED
    hour_later = run(machine, TechnicalCode.LEAD_OFF, [True, True, False, False], start=3 * 3600)
    assert [state for _, state in hour_later] == [State.RAISED, State.CLEARED]


def test_each_raise_after_the_third_doubles_how_long_a_condition_must_be_gone_up_to_a_minute():
    machine, rule, second, gone_s = alerts(), RULES[TechnicalCode.LEAD_OFF], 0, []
    for _ in range(12):
        presence = [True] * int(rule.raise_after_s) + [False] * 61
        seen = [(at, state) for at, state in run(machine, TechnicalCode.LEAD_OFF, presence, start=second)
                if state is not State.UPDATED]  # fmt: skip
        assert [state for _, state in seen] == [State.RAISED, State.CLEARED]
        gone_s.append(seen[1][0] - seen[0][0])
        second += len(presence)
    usual_s = int(rule.clear_after_s)
    assert gone_s[:6] == [usual_s, usual_s, usual_s, 2 * usual_s, 4 * usual_s, 8 * usual_s]
    assert gone_s[-1] == HELD_S == 60


def test_a_silence_begins_at_the_poll_that_finds_it_and_no_event_of_it_is_before():
    machine, events = alerts(), []
    for poll, silent in enumerate([True] * 40 + [False]):
        at = Moment("s1", 700, RATE_HZ, NOON_NS - 5, NOON_NS + poll * 10**9)
        events += machine.observe_stream(at, {TechnicalCode.STREAM_SILENT} if silent else set(), 1.0)
    assert [event.state for event in events] == [State.RAISED, State.UPDATED, State.CLEARED]
    assert [event.at.t - event.onset.t for event in events] == [0, 30 * 10**9, 40 * 10**9]


def test_a_silent_stream_is_raised_and_cleared_at_once_each_time_under_a_new_id():
    machine, events = alerts(), []
    for poll, silent in enumerate([False, True, False, True, False]):
        at = Moment("s1", 700, RATE_HZ, None, NOON_NS + poll)
        events += machine.observe_stream(at, {TechnicalCode.STREAM_SILENT} if silent else set(), 1.0)
    assert [event.state for event in events] == [State.RAISED, State.CLEARED] * 2
    assert events[0].id == events[1].id != events[2].id == events[3].id


def test_silence_ends_what_was_known_of_the_signal():
    machine = alerts()
    run(machine, TechnicalCode.LEAD_OFF, [True] * 3)
    events = machine.observe_stream(moment(20), {TechnicalCode.STREAM_SILENT}, 1.0)
    assert [(event.code, event.state, event.reason) for event in events] == [
        ("stream_silent", State.RAISED, None), ("lead_off", State.CLEARED, Reason.NO_SIGNAL),
    ]  # fmt: skip
    assert set(machine.open) == {TechnicalCode.STREAM_SILENT}


def test_hops_and_polls_do_not_clear_each_others_conditions():
    machine = alerts()
    run(machine, TechnicalCode.LEAD_OFF, [True] * 2)
    machine.observe_stream(moment(2), {TechnicalCode.OVERLOAD}, 1.0)
    machine.observe_stream(moment(3), {TechnicalCode.OVERLOAD}, 10.0)
    run(machine, TechnicalCode.LEAD_OFF, [True] * 9, start=3)
    assert set(machine.open) == {TechnicalCode.LEAD_OFF, TechnicalCode.OVERLOAD}


def test_after_a_restart_a_condition_goes_on_under_its_id_and_ends_when_it_is_gone():
    before = alerts()
    run(before, TechnicalCode.LEAD_OFF, [True] * 2)
    (raised,) = before.open.values()
    after = alerts()
    after.restore([raised])
    events = [e for second in (5, 6) for e in after.observe_hop(moment(second), set(), 1.0)]
    assert [(event.id, event.state, event.revision) for event in events] == [(raised.id, State.CLEARED, 1)]


def test_giving_a_stream_up_closes_everything_with_the_reason():
    machine = alerts()
    run(machine, TechnicalCode.LEAD_OFF, [True] * 2)
    machine.observe_stream(moment(2), {TechnicalCode.OVERLOAD}, 1.0)
    closed = machine.close_all(Point(300), Reason.EVICTED)
    assert [(event.code, event.state, event.reason) for event in closed] == [
        ("lead_off", State.CLEARED, Reason.EVICTED), ("overload", State.CLEARED, Reason.EVICTED),
    ]  # fmt: skip
    assert machine.open == {}


def test_the_issues_of_a_hop_are_named_as_conditions():
    assert codes_of(Issue.NONE) == frozenset()
    assert codes_of(Issue.LEAD_OFF | Issue.EINTHOVEN) == {TechnicalCode.LEAD_OFF, TechnicalCode.EINTHOVEN}
    assert {code for issue in Issue for code in codes_of(issue)} == SIGNAL_CODES - {TechnicalCode.MODEL_STATE}


def test_every_condition_has_a_rule_and_a_topic():
    assert set(RULES) == set(TechnicalCode)
    assert len({alert_topic("bed-1", code.value) for code in TechnicalCode}) == len(TechnicalCode)


@given(hops=st.lists(st.frozensets(st.sampled_from(sorted(SIGNAL_CODES))), max_size=120))
def test_whatever_comes_every_condition_is_cleared_once_the_signal_is_sound_again(hops):
    machine, events = alerts(), []
    for second, present in enumerate([*hops, *[frozenset()] * 30]):
        events += machine.observe_hop(moment(second), present, 1.0)
    assert machine.open == {}
    lives: dict[str, list[State]] = {}
    for event in events:
        lives.setdefault(event.id, []).append(event.state)
    for states in lives.values():
        assert (states[0], states[-1]) == (State.RAISED, State.CLEARED)
        assert set(states[1:-1]) <= {State.UPDATED}
