"""Class alerts: a condition is raised after its dwell, told of under one id, and cleared once."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge.alerts.decide import ClassAlerts
from edge.alerts.events import AlertEvent, Model, Moment, Point, Priority, Reason, State, decode, encode
from edge.alerts.policy import AlertPolicy
from edge.errors import ConfigError, PayloadError, StorageError
from edge.runtime.manifest import OperatingPoint
from edge.signal.quality import Issue, QualityReport

CLASSES = ("NORM", "MI", "STTC")
RATE_HZ = 500
GOOD = QualityReport(1.0, Issue.NONE, (Issue.NONE,) * 12)
BAD = QualityReport(0.4, Issue.NOISE, (Issue.NOISE,) * 12)
SECOND_NS = 1_000_000_000
NOON_NS = 1_700_000_000 * SECOND_NS


def policy(dwell_s=3.0, refractory_s=0.0, classes=CLASSES, **options) -> AlertPolicy:
    point = OperatingPoint(f1_threshold=0.5, on=0.6, off=0.4, dwell_s=dwell_s)
    defaults = {"hop_s": 1.0, "window_s": 10.0, "refractory_s": refractory_s}
    return AlertPolicy(classes, dict.fromkeys(classes, point), **{**defaults, **options})


class Stream:
    """Feeds a state machine hop by hop and keeps what comes out."""

    def __init__(self, alerts: ClassAlerts | None = None, session: str = "s1", at_s: int = 0, **options) -> None:
        self.alerts = alerts or ClassAlerts("bed-1", "node-1", Model("m", "0" * 64, "onnxruntime"), policy(**options))
        self.session, self.at_s = session, at_s
        self.events: list[AlertEvent] = []

    def hop(self, mi: float, sttc: float = 0.0, quality=GOOD, ready=True) -> list[AlertEvent]:
        self.at_s += 1
        at_ns = NOON_NS + self.at_s * SECOND_NS
        moment = Moment(self.session, self.at_s * RATE_HZ - 1, RATE_HZ, at_ns, at_ns + 50_000_000, 50.0)
        events = self.alerts.step(moment, [0.99, mi, sttc], quality, ready)
        self.events += events
        return events

    def hops(self, *probabilities: float, **options) -> list[AlertEvent]:
        return [event for mi in probabilities for event in self.hop(mi, **options)]

    def states(self, code: str = "mi") -> list[State]:
        return [event.state for event in self.events if event.code == code]


def test_a_probability_that_stays_above_on_for_the_dwell_is_raised_with_all_it_takes_to_judge_it():
    stream = Stream()
    assert stream.hops(0.1, 0.7, 0.8) == []
    (event,) = stream.hops(0.9)
    assert (event.state, event.revision, event.kind, event.class_name, event.code) == (
        State.RAISED, 0, "class", "MI", "mi",
    )  # fmt: skip
    assert (event.probability, event.threshold, event.priority) == (0.9, 0.6, Priority.HIGH)
    assert event.onset == Point(2 * RATE_HZ - 1, NOON_NS + 2 * SECOND_NS)
    assert event.at == Point(4 * RATE_HZ - 1, NOON_NS + 4 * SECOND_NS)
    assert (event.window.first, event.window.last) == (0, 4 * RATE_HZ - 1)
    assert event.expires == NOON_NS + 4 * SECOND_NS + 50_000_000 + 120 * SECOND_NS
    assert (event.latency_ms, event.quality, event.model.runtime, event.node) == (50.0, 1.0, "onnxruntime", "node-1")


def test_the_window_of_an_event_is_the_last_ten_seconds():
    stream = Stream(at_s=100)
    (event,) = stream.hops(0.9, 0.9, 0.9)
    assert event.window.last - event.window.first + 1 == 10 * RATE_HZ


def test_a_dip_below_on_starts_the_dwell_anew():
    stream = Stream()
    assert stream.hops(0.7, 0.7, 0.5, 0.7, 0.7) == []
    assert [event.state for event in stream.hops(0.7)] == [State.RAISED]


def test_without_dwell_one_hop_is_enough():
    assert Stream(dwell_s=0.0).hop(0.6)[0].state is State.RAISED


def test_between_off_and_on_an_open_condition_stays_open():
    stream = Stream()
    stream.hops(0.7, 0.7, 0.7, *[0.5] * 20)
    assert State.CLEARED not in stream.states()


def test_below_off_for_the_dwell_clears_under_the_same_id_and_no_longer_expires():
    stream = Stream()
    stream.hops(0.7, 0.7, 0.7, 0.3, 0.3, 0.5, 0.3, 0.3, 0.3)
    assert [stream.states()[0], stream.states()[-1]] == [State.RAISED, State.CLEARED]
    assert len({event.id for event in stream.events}) == 1
    assert [event.revision for event in stream.events] == list(range(len(stream.events)))
    assert stream.events[-1].expires is None
    assert stream.alerts.open == {}


def test_norm_is_scored_but_never_raised():
    stream = Stream()
    stream.hops(*[0.1] * 60)
    assert stream.events == []


def test_classes_are_decided_independently():
    stream = Stream()
    for _ in range(3):
        stream.hop(0.9, sttc=0.9)
    assert sorted(event.code for event in stream.events) == ["mi", "sttc"]
    assert len({event.id for event in stream.events}) == 2


def test_an_open_condition_is_updated_at_the_interval():
    stream = Stream(update_every_s=10.0)
    stream.hops(*[0.7] * 33)
    assert [event.at.i + 1 for event in stream.events] == [RATE_HZ * s for s in (3, 13, 23, 33)]
    assert stream.states() == [State.RAISED, *[State.UPDATED] * 3]


def test_a_probability_that_moves_much_is_updated_sooner_but_not_at_once():
    stream = Stream()
    stream.hops(0.7, 0.7, 0.7)
    assert stream.hops(0.95, 0.95, 0.95, 0.95) == []
    assert [event.probability for event in stream.hops(0.95)] == [0.95]


def test_after_a_clear_the_refractory_time_holds_the_next_raise_back():
    stream = Stream(refractory_s=20.0)
    stream.hops(0.7, 0.7, 0.7, 0.1, 0.1, 0.1)
    assert stream.hops(*[0.9] * 19) == []
    (again,) = stream.hop(0.9)
    assert again.state is State.RAISED
    assert again.id != stream.events[0].id


def test_raises_above_the_hourly_limit_are_counted_and_come_when_the_limit_allows():
    stream = Stream(dwell_s=1.0, max_raises_per_hour=2)
    for _ in range(5):
        stream.hops(0.9, 0.1)
    assert stream.states().count(State.RAISED) == 2
    assert stream.alerts.suppressed == 3
    stream.hops(*[0.9] * 30)
    assert stream.alerts.suppressed == 4
    stream.at_s += 3600
    assert [event.state for event in stream.hop(0.9)] == [State.RAISED]


def test_a_new_session_does_not_reset_the_hourly_limit():
    stream = Stream(dwell_s=1.0, max_raises_per_hour=2)
    for number in range(5):
        stream.session = f"s{number}"
        stream.hop(0.9)
    assert stream.states().count(State.RAISED) == 2


@pytest.mark.parametrize("frozen", [{"ready": False}, {"quality": BAD}])
def test_while_frozen_nothing_is_raised_and_nothing_cleared(frozen):
    stream = Stream()
    assert stream.hops(*[0.9] * 9, **frozen) == []
    stream = Stream()
    stream.hops(0.9, 0.9, 0.9)
    stream.hops(*[0.0] * 60, **frozen)
    assert State.CLEARED not in stream.states()


def test_while_frozen_no_dwell_time_passes():
    stream = Stream()
    assert stream.hops(0.9, 0.9) == []
    assert stream.hops(0.9, 0.9, quality=BAD) == []
    assert [event.state for event in stream.hops(0.9)] == [State.RAISED]


def test_a_frozen_condition_is_kept_from_expiring_with_its_last_trusted_probability():
    stream = Stream()
    stream.hops(0.9, 0.9, 0.8)
    (event,) = stream.hops(*[0.1] * 31, ready=False)
    assert (event.state, event.reason, event.probability) == (State.UPDATED, Reason.FROZEN, 0.8)


def test_alerts_stay_frozen_while_too_much_of_the_window_was_bad():
    stream = Stream(dwell_s=1.0)
    stream.hops(*[0.9] * 3, quality=BAD)
    assert stream.hops(*[0.9] * 7) == []
    assert [event.state for event in stream.hop(0.9)] == [State.RAISED]


def test_dwell_from_before_a_window_ago_is_forgotten():
    stream = Stream()
    stream.hops(0.9, 0.9)
    stream.hops(*[0.9] * 10, ready=False)
    assert stream.hops(0.9, 0.9) == []
    assert stream.hop(0.9)[0].onset.i == 13 * RATE_HZ - 1


def test_a_probability_that_is_no_number_freezes():
    stream = Stream(dwell_s=1.0)
    assert stream.hop(float("nan")) == []
    assert stream.hop(0.9)[0].state is State.RAISED


def test_a_new_session_closes_what_the_old_one_left_open():
    stream = Stream()
    stream.hops(0.9, 0.9, 0.9, 0.9)
    stream.session, stream.at_s = "s2", 0
    (event,) = stream.hop(0.9)
    assert (event.state, event.reason, event.session) == (State.CLEARED, Reason.SESSION_ENDED, "s1")
    assert event.at.i == 4 * RATE_HZ - 1
    assert [event.session for event in stream.hops(0.9, 0.9)] == ["s2"]


def test_giving_a_stream_up_closes_everything_with_the_reason():
    stream = Stream()
    for _ in range(3):
        stream.hop(0.9, sttc=0.9)
    closed = stream.alerts.close_all(Reason.EVICTED)
    assert [(event.code, event.state, event.reason) for event in closed] == [
        ("mi", State.CLEARED, Reason.EVICTED), ("sttc", State.CLEARED, Reason.EVICTED),
    ]  # fmt: skip
    assert stream.alerts.close_all(Reason.EVICTED) == []


def test_after_a_restart_a_condition_goes_on_under_its_id():
    before = Stream()
    (raised,) = before.hops(0.9, 0.9, 0.9)
    after = Stream(at_s=before.at_s)
    assert after.alerts.restore([decode(encode(raised))]) == []
    assert after.hops(*[0.9] * 12, ready=False) == []
    (event,) = after.hops(0.35, 0.35, 0.35)[-1:]
    assert (event.id, event.state, event.revision) == (raised.id, State.CLEARED, len(after.events))


def test_after_a_restart_saved_dwell_goes_on():
    before = Stream()
    before.hops(0.9, 0.9)
    after = Stream(at_s=before.at_s)
    after.alerts.from_state(msgspec.msgpack.decode(msgspec.msgpack.encode(before.alerts.to_state())))
    (event,) = after.hop(0.9)
    assert event.onset.i == RATE_HZ - 1


def test_a_restored_condition_of_another_session_is_closed_at_the_first_hop():
    before = Stream()
    (raised,) = before.hops(0.9, 0.9, 0.9)
    after = Stream(session="s2")
    after.alerts.restore([raised])
    (event,) = after.hop(0.1, ready=False)
    assert (event.id, event.state, event.at) == (raised.id, State.CLEARED, raised.at)


def test_a_restored_condition_that_the_policy_no_longer_watches_is_closed():
    (raised,) = Stream().hops(0.9, 0.9, 0.9)
    other = ClassAlerts("bed-1", "node-1", Model("m", "0" * 64, "x"), policy(classes=("NORM", "CD")))
    (event,) = other.restore([raised])
    assert (event.state, event.reason) == (State.CLEARED, Reason.NOT_WATCHED)


def test_saved_progress_that_cannot_be_read_is_refused():
    with pytest.raises(StorageError, match="progress"):
        Stream().alerts.from_state({"classes": {"MI": {"above": "many"}}})


def test_a_class_that_would_share_a_topic_with_a_technical_condition_is_refused():
    with pytest.raises(ConfigError, match="noise"):
        policy(classes=("NORM", "Noise"))


def test_an_event_survives_json_with_the_field_names_of_the_contract():
    (event,) = Stream().hops(0.9, 0.9, 0.9)
    plain = msgspec.json.decode(encode(event))
    assert decode(encode(event)) == event
    assert (plain["class"], plain["state"], plain["window"]) == ("MI", "raised", {"from": 0, "to": 3 * RATE_HZ - 1})
    assert {"id", "device", "session", "code", "kind", "priority", "onset", "at", "model", "expires"} <= plain.keys()


@given(payload=st.binary(max_size=200))
def test_bytes_that_are_no_event_are_refused_as_a_payload(payload):
    with pytest.raises(PayloadError):
        decode(payload)


hop_inputs = st.tuples(
    st.sampled_from([0.1, 0.5, 0.7, 0.95]),
    st.sampled_from(["good", "good", "good", "bad", "warming"]),
    st.sampled_from(["go on", "go on", "go on", "go on", "go on", "restart", "crash", "new session"]),
)


def play(inputs, dwell_s=3.0) -> Stream:
    """Run hops with restarts (progress saved), crashes (progress lost) and new sessions in between."""
    stream = Stream(dwell_s=dwell_s, refractory_s=4.0, max_raises_per_hour=5)
    for number, (mi, condition, incident) in enumerate(inputs):
        if incident == "new session":
            stream.session, stream.at_s = f"n{number}", 0
        elif incident != "go on":
            before = stream.alerts
            stream.alerts = Stream(dwell_s=dwell_s, refractory_s=4.0, max_raises_per_hour=5).alerts
            if incident == "restart":
                stream.alerts.from_state(before.to_state())
            stream.alerts.restore(before.open.values())
        stream.hop(mi, quality=BAD if condition == "bad" else GOOD, ready=condition != "warming")
    return stream


@given(inputs=st.lists(hop_inputs, max_size=80))
def test_every_condition_is_raised_once_then_updated_then_cleared_at_most_once(inputs):
    stream = play(inputs)
    lives: dict[str, list[AlertEvent]] = {}
    for event in stream.events:
        lives.setdefault(event.id, []).append(event)
    for life in lives.values():
        states = [event.state for event in life]
        assert states[0] is State.RAISED
        assert Counter(states)[State.RAISED] == 1
        assert State.CLEARED not in states[:-1]
        assert [event.revision for event in life] == list(range(len(life)))
    still_open = {event.id for event in stream.alerts.open.values()}
    assert still_open == {life[-1].id for life in lives.values() if life[-1].state is not State.CLEARED}


@given(inputs=st.lists(hop_inputs, max_size=80))
def test_a_device_never_has_two_open_conditions_of_one_code(inputs):
    open_id = None
    for event in play(inputs).events:
        if event.state is State.RAISED:
            assert open_id is None
            open_id = event.id
        else:
            assert event.id == open_id
            open_id = None if event.state is State.CLEARED else open_id


@given(probabilities=st.lists(st.sampled_from([0.1, 0.5, 0.7, 0.95]), max_size=80), dwell=st.integers(1, 5))
def test_no_raise_without_dwell_above_on_and_no_clear_without_dwell_below_off(probabilities, dwell):
    stream = Stream(dwell_s=float(dwell), refractory_s=4.0)
    for number, mi in enumerate(probabilities, start=1):
        before = probabilities[max(0, number - dwell) : number]
        for event in stream.hop(mi):
            if event.state is State.RAISED:
                assert len(before) == dwell
                assert min(before) >= 0.6
                assert event.onset.i <= event.at.i - (dwell - 1) * RATE_HZ
            elif event.state is State.CLEARED:
                assert max(before) < 0.4


@given(inputs=st.lists(hop_inputs, max_size=80))
def test_the_same_hops_give_the_same_events(inputs):
    assert play(inputs).events == play(inputs).events


@given(inputs=st.lists(hop_inputs.filter(lambda hop: hop[1] != "good"), max_size=80))
def test_a_stream_that_is_never_good_raises_nothing(inputs):
    assert play(inputs, dwell_s=0.0).events == []


@given(inputs=st.lists(hop_inputs, max_size=80))
def test_a_hop_at_which_nothing_stirs_leaves_a_stream_as_deciding_class_by_class_does(inputs):
    passed_over = play(inputs)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ClassAlerts, "_nothing_stirs", lambda *_: False)
        decided = play(inputs)

    assert passed_over.events == decided.events
    assert passed_over.alerts.to_state() == decided.alerts.to_state()


def test_a_device_that_counts_from_0_again_is_not_silenced_until_it_is_where_it_was():
    stream = Stream(refractory_s=60.0, update_every_s=30.0)
    stream.hops(*[0.1] * 500, *[0.9] * 3, *[0.1] * 3)
    assert stream.states() == [State.RAISED, State.CLEARED]
    stream.at_s = 0
    stream.hops(*[0.9] * 3)
    assert stream.states() == [State.RAISED, State.CLEARED, State.RAISED]


def test_after_a_step_back_dwell_begins_anew_and_an_open_condition_is_told_of_at_once():
    stream = Stream(update_every_s=30.0)
    stream.hops(*[0.1] * 500, *[0.9] * 2)
    stream.at_s = 0
    stream.hops(0.9)
    assert stream.states() == []
    stream.hops(0.9, 0.9)
    stream.hops(*[0.9] * 100)
    n = len(stream.events)
    stream.at_s = 0
    stream.hops(0.9)
    assert [event.state for event in stream.events[n:]] == [State.UPDATED]


def test_a_probability_of_off_itself_does_not_clear():
    stream = Stream()
    stream.hops(*[0.9] * 3, *[0.4] * 10)
    assert State.CLEARED not in stream.states()


def test_a_changed_priority_holds_for_what_is_open():
    stream = Stream()
    stream.hops(0.9, 0.9, 0.9)
    assert stream.events[-1].priority is Priority.HIGH
    stream.alerts.policy = replace(stream.alerts.policy, priorities={"MI": Priority.LOW})
    stream.hops(0.1, 0.1, 0.1)
    assert (stream.events[-1].state, stream.events[-1].priority) == (State.CLEARED, Priority.LOW)
