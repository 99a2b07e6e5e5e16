"""Signal quality: each fault is named with its leads, and sound ECG, synthetic or real, is left alone."""

from __future__ import annotations

import csv

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edge.signal import kernel
from edge.signal.invalid import INVALID, MISSING
from edge.signal.lead_quality import LeadJudge, QualityLimits
from edge.signal.leads import STANDARD_LEADS
from edge.signal.quality import Issue, QualityAssessor
from edge.signal.resample import CausalResampler
from trainer.filters import synthetic_beats

RATE_HZ = 100
VALID = np.zeros((RATE_HZ, 12), dtype=np.uint8)


def twelve_leads(seconds: float = 1.0, noise_uv: float = 3.0, rate_hz: int = RATE_HZ) -> np.ndarray:
    """A consistent ECG, (samples, 12): two limb leads and six chest leads with noise, the other four derived."""
    rng = np.random.default_rng(7)
    beat = synthetic_beats(rate_hz, seconds + 1)[rate_hz:]
    free = beat[:, None] * np.array([0.6, 1.0, -0.4, -0.9, -0.5, 0.8, 1.3, 1.1])
    free = free + noise_uv / 1000 * rng.standard_normal(free.shape)
    one, two = free[:, 0], free[:, 1]
    limb = [one, two, two - one, -(one + two) / 2, one - two / 2, two - one / 2]
    return np.column_stack([*limb, *free[:, 2:].T])


def lead(name: str) -> int:
    return STANDARD_LEADS.index(name)


def assess(samples_mv, invalid=VALID, lead_off=None, **options):
    return QualityAssessor(STANDARD_LEADS, RATE_HZ, **options).assess(samples_mv, invalid, lead_off)


def leads_with(report, issue):
    return {name for name, found in zip(STANDARD_LEADS, report.lead_issues, strict=True) if found & issue}


def record_mv(root, ecg_id):
    name = root / "records100" / f"{ecg_id // 1000 * 1000:05d}" / f"{ecg_id:05d}_lr.dat"
    if not name.is_file():
        pytest.skip(f"this copy of PTB-XL has no record {ecg_id}")
    return np.fromfile(name, dtype="<i2").reshape(-1, 12) / 1000


def hops(record):
    return record.reshape(-1, RATE_HZ, 12)


def test_a_clean_hop_is_good_and_scores_one():
    report = assess(twelve_leads())
    assert (report.good, report.score, report.issues) == (True, 1.0, Issue.NONE)
    assert report.lead_issues == (Issue.NONE,) * 12


def test_an_electrode_offset_is_no_fault():
    offsets = np.zeros(12)
    offsets[6:] = 150.0
    assert assess(twelve_leads() + offsets).good


@pytest.mark.parametrize("name", ["V5", "aVF"])
def test_a_flat_lead_is_named(name):
    samples = twelve_leads()
    samples[:, lead(name)] = 0.004
    report = assess(samples)
    assert leads_with(report, Issue.FLAT) == {name}
    assert Issue.FLAT in report.issues
    assert report.score < 1


def test_a_lead_that_is_off_is_named_and_not_called_flat_as_well():
    samples, off = twelve_leads(), np.zeros(12, dtype=bool)
    samples[:, lead("V2")] = 0.0
    off[lead("V2")] = True
    report = assess(samples, lead_off=off)
    assert report.issues == Issue.LEAD_OFF
    assert leads_with(report, Issue.LEAD_OFF) == {"V2"}
    assert report.score == pytest.approx(11 / 12, abs=1e-3)


def test_a_lead_of_mostly_invalid_samples_is_off_whatever_the_rate_they_are_counted_at():
    invalid = np.zeros((500, 12), dtype=np.uint8)
    invalid[:300, lead("III")] = INVALID
    assert leads_with(assess(twelve_leads(), invalid), Issue.LEAD_OFF) == {"III"}


def test_a_bridged_gap_is_missing_and_not_twelve_leads_off():
    report = assess(twelve_leads(), np.full((RATE_HZ, 12), MISSING, dtype=np.uint8))
    assert report.issues == Issue.MISSING
    assert report.score == 0.0


@pytest.mark.parametrize(("lost", "good"), [(19, True), (20, False), (49, False)])
def test_a_gap_in_a_part_of_a_hop_is_told_from_a_fifth_of_it_on(lost, good):
    invalid = VALID.copy()
    invalid[:lost] = MISSING
    report = assess(twelve_leads(), invalid)
    assert report.issues == (Issue.NONE if good else Issue.MISSING)
    assert report.score == (pytest.approx(1 - lost / 100) if good else 0.0)


def test_all_leads_off_are_leads_off_and_no_gap():
    assert assess(twelve_leads(), np.full((RATE_HZ, 12), INVALID, dtype=np.uint8)).issues == Issue.LEAD_OFF


def test_a_lead_that_is_off_beside_a_gap_is_told_too():
    invalid = VALID.copy()
    invalid[:30] = MISSING
    invalid[30:, lead("V1")] = INVALID
    report = assess(twelve_leads(), invalid)
    assert report.issues == Issue.MISSING | Issue.LEAD_OFF
    assert leads_with(report, Issue.LEAD_OFF) == {"V1"}


def test_a_few_invalid_samples_lower_the_score_but_leave_the_hop_usable():
    invalid = VALID.copy()
    invalid[10:20] = INVALID
    report = assess(twelve_leads(), invalid)
    assert report.good
    assert report.score == pytest.approx(0.9)


@pytest.mark.parametrize("issue", [Issue.FLAT, Issue.SATURATED, Issue.NOISE])
def test_invalid_samples_excuse_no_lead_from_being_judged(issue):
    samples, invalid = twelve_leads(), VALID.copy()
    if issue is Issue.FLAT:
        samples[:] = 0.3
    elif issue is Issue.SATURATED:
        samples[40:60] = 5.0
    else:
        samples += np.random.default_rng(0).normal(0, 1.5, samples.shape)
    invalid[7] = INVALID
    assert assess(samples, invalid).issues & issue


def test_samples_that_are_not_numbers_count_as_invalid():
    samples = twelve_leads()
    samples[:80, lead("V1")] = np.nan
    samples[3, lead("V6")] = np.inf
    report = assess(samples)
    assert leads_with(report, Issue.LEAD_OFF) == {"V1"}
    assert np.isfinite(report.score)


@pytest.mark.parametrize("rail_mv", [3.0, -3.0])
def test_clipping_shows_as_a_plateau_far_from_the_baseline(rail_mv):
    samples = twelve_leads()
    samples[30:45, lead("V3")] = rail_mv
    assert leads_with(assess(samples), Issue.SATURATED) == {"V3"}


def test_a_known_full_scale_shows_clipping_of_a_single_sample():
    samples = twelve_leads()
    samples[50, lead("V3")] = 5.0
    assert assess(samples).issues == Issue.NONE
    assert leads_with(assess(samples, full_scale_mv=(-5.0, 5.0)), Issue.SATURATED) == {"V3"}


def test_a_lead_that_stands_at_the_rail_is_saturated_rather_than_flat():
    samples = twelve_leads()
    samples[:, lead("V4")] = -5.0
    report = assess(samples, full_scale_mv=(-5.0, 5.0))
    assert leads_with(report, Issue.SATURATED) == {"V4"}
    assert leads_with(report, Issue.FLAT) == set()


def test_an_isoelectric_line_between_beats_is_no_clipping():
    assert assess(np.round(twelve_leads(noise_uv=0.0), 3)).good


def test_muscle_noise_in_one_lead_is_named_but_the_hop_can_be_used():
    samples = twelve_leads()
    samples[:, lead("V1")] += 0.15 * np.random.default_rng(1).standard_normal(RATE_HZ)
    report = assess(samples)
    assert leads_with(report, Issue.NOISE) == {"V1"}
    assert report.good
    assert report.score == pytest.approx(11 / 12, abs=1e-3)


def test_muscle_noise_of_one_arm_spoils_the_hop():
    arm = 0.3 * np.random.default_rng(1).standard_normal(RATE_HZ)
    samples = twelve_leads() + arm[:, None] * np.array([-1, -1, 0, 1, -0.5, -0.5, *[-1 / 3] * 6])
    report = assess(samples)
    assert report.issues == Issue.NOISE
    assert {"I", "II", "aVR"} <= leads_with(report, Issue.NOISE)


@pytest.mark.parametrize("rate_hz", [100, 250, 500])
def test_mains_hum_that_the_band_pass_takes_away_is_no_fault(rate_hz):
    samples = twelve_leads(seconds=3.0, rate_hz=rate_hz)
    hum = 0.2 * np.sin(2 * np.pi * 50 * np.arange(len(samples)) / rate_hz + 1.0)
    samples[:, 6:] += hum[:, None]
    assert assess(CausalResampler(rate_hz, RATE_HZ).process(samples)[-RATE_HZ:]).good


def test_a_jumping_baseline_is_noise():
    samples = twelve_leads()
    samples[50:, 6:] += 2.0
    assert leads_with(assess(samples), Issue.NOISE) == {"V1", "V2", "V3", "V4", "V5", "V6"}


def test_a_swing_beyond_what_an_electrocardiograph_must_take_is_noise():
    samples = twelve_leads()
    samples[40:44, lead("V2")] = [6.0, -6.0, 6.0, -6.0]
    assert leads_with(assess(samples), Issue.NOISE) == {"V2"}


@pytest.mark.parametrize("swapped", [("I", "II"), ("aVR", "aVF"), ("II", "V1")])
def test_limb_leads_under_each_others_names_contradict(swapped):
    order = [lead(name) for name in STANDARD_LEADS]
    a, b = map(lead, swapped)
    order[a], order[b] = b, a
    report = assess(twelve_leads()[:, order])
    assert Issue.EINTHOVEN in report.issues
    assert report.score <= 0.5


def test_rounding_to_five_microvolts_does_not_make_leads_contradict():
    assert assess(np.round(twelve_leads() * 200) / 200).good


def test_a_relation_is_not_judged_on_leads_that_are_off():
    samples, off = twelve_leads(), np.zeros(12, dtype=bool)
    samples[:, lead("III")] = 0.7
    off[lead("III")] = True
    assert assess(samples, lead_off=off).issues == Issue.LEAD_OFF


def test_fewer_leads_than_twelve_are_judged_by_the_relations_they_have():
    samples = twelve_leads()[:, [0, 1]]
    assert QualityAssessor(("I", "II"), RATE_HZ).assess(samples, VALID[:, :2]).good


def test_the_resampler_in_front_does_not_make_a_sound_ecg_bad():
    resampled = CausalResampler(500, RATE_HZ).process(twelve_leads(seconds=5, rate_hz=500))
    assert all(assess(hop).good for hop in hops(resampled[: len(resampled) // RATE_HZ * RATE_HZ]))


def test_of_real_records_marked_free_of_noise_at_most_two_in_a_hundred_have_a_bad_hop(ptbxl_root):
    remarks = ("baseline_drift", "static_noise", "burst_noise", "electrodes_problems")
    with (ptbxl_root / "ptbxl_database.csv").open(newline="") as file:
        clean = [row for row in csv.DictReader(file) if not any(row[remark].strip() for remark in remarks)]
    present = [path for row in clean if (path := ptbxl_root / f"{row['filename_lr']}.dat").is_file()]
    chosen = present[:: max(1, len(present) // 400)]
    assert len(chosen) >= 10
    records = [np.fromfile(path, dtype="<i2").reshape(-1, 12) / 1000 for path in chosen]
    bad = sum(any(not assess(hop).good for hop in hops(record)) for record in records)
    assert bad <= 0.02 * len(chosen)


def test_the_dead_chest_leads_of_record_12722_are_found_from_where_they_die(ptbxl_root):
    flat = [leads_with(assess(hop), Issue.FLAT) for hop in hops(record_mv(ptbxl_root, 12722))]
    assert flat == [{"V5"}] * 2 + [{"V5", "V6"}] * 5 + [{"V4", "V5", "V6"}] * 3


@pytest.mark.parametrize("ecg_id", [8989, 9129, 21171])
def test_real_limb_leads_that_contradict_by_millivolts_are_found(ptbxl_root, ecg_id):
    found = [Issue.EINTHOVEN in assess(hop).issues for hop in hops(record_mv(ptbxl_root, ecg_id))]
    assert sum(found) >= 7


def faulty(samples_mv, fault, at):
    """Do one thing to a lead that the verdict may or may not mind."""
    samples_mv, column = samples_mv.copy(), at % 12
    if fault == "still":
        samples_mv[at % 80 : at % 80 + 8, column] = samples_mv[:, column].max() + 1.2
    elif fault == "noise":
        samples_mv[:, column] += np.random.default_rng(at).normal(0, 0.1, len(samples_mv))
    elif fault == "drift":
        samples_mv[at % 100 :, column] += 1.1
    elif fault == "scale":
        samples_mv[:, column] *= at / 100
    elif fault == "missing":
        samples_mv[: at % 101, column] = np.nan
    return samples_mv


@settings(max_examples=300, deadline=None)
@given(
    done=st.lists(st.tuples(st.sampled_from(["still", "noise", "drift", "scale", "missing"]), st.integers(0, 3000))),
    marked=st.lists(st.integers(0, 2399), max_size=200),
    missing=st.integers(0, 200),
    off=st.lists(st.integers(0, 11), max_size=2),
    full_scale_mv=st.none() | st.floats(0.5, 5.0).map(lambda end: (-end, end)),
)
def test_the_verdict_is_the_same_in_c_and_in_numpy(done, marked, missing, off, full_scale_mv):
    assert kernel.library() is not None
    samples = twelve_leads()
    for fault, at in done:
        samples = faulty(samples, fault, at)
    invalid, lead_off = np.zeros((200, 12), dtype=np.uint8), np.zeros(12, dtype=bool)
    invalid.reshape(-1)[marked] = INVALID
    invalid[:missing] = MISSING
    lead_off[off] = True
    judge = LeadJudge(STANDARD_LEADS, RATE_HZ, QualityLimits(), full_scale_mv)
    compiled, reference = judge.judge(samples, invalid, lead_off), judge.judge_numpy(samples, invalid, lead_off)
    if compiled is None or reference is None:
        assert compiled is reference
        return
    np.testing.assert_array_equal(compiled.codes, reference.codes)
    np.testing.assert_array_equal(compiled.invalid_shares, reference.invalid_shares)
    assert compiled.contradiction == reference.contradiction


def test_every_hop_of_real_ecg_gets_the_same_verdict_in_c_and_in_numpy(ptbxl_root):
    judge = LeadJudge(STANDARD_LEADS, RATE_HZ, QualityLimits(), (-32.768, 32.767))
    none_off = np.zeros(12, dtype=bool)
    wrong = 0
    for path in sorted((ptbxl_root / "records100").rglob("*.dat"))[:400]:
        for hop in np.fromfile(path, dtype="<i2").reshape(-1, RATE_HZ, 12) / 1000:
            compiled, reference = judge.judge(hop, VALID, none_off), judge.judge_numpy(hop, VALID, none_off)
            assert (compiled is None) == (reference is None)
            if compiled is not None and reference is not None:
                wrong += 1
                assert compiled.codes.tolist() == reference.codes.tolist()
    assert wrong


def test_a_hop_too_short_to_be_judged_is_refused():
    with pytest.raises(ValueError, match="7 samples"):
        assess(twelve_leads()[:7])


@pytest.mark.parametrize("wrong", ["short", "read-only", "leads", "type"])
def test_the_kernel_refuses_buffers_that_do_not_fit(wrong):
    samples, state, leads = np.zeros((10, 12)), np.zeros((1, 2, 12)), 12
    if wrong == "short":
        samples = samples[:9]
    elif wrong == "read-only":
        state.flags.writeable = False
    elif wrong == "leads":
        leads = 17
    elif wrong == "type":
        state = state.tolist()
    with pytest.raises((ValueError, TypeError, BufferError)):
        kernel.library().filter_sections(np.zeros((1, 6)), samples, state, 1, 1, 10, leads)
