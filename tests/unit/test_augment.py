"""Augmentations: each does what it promises, to a copy, alike from one seed, and at any sampling rate."""

from __future__ import annotations

import msgspec
import numpy as np
import pytest

from edge.errors import SignalError
from trainer.augment import AUGMENTATIONS, Augmentation, augment
from trainer.augment_axis import axis_turn, dipole_matrices
from trainer.augment_mix import Mixed, mixup, others, segment_cutmix
from trainer.augment_noise import band_pass, channel_noise, leads_of_electrodes, motion_and_wander
from trainer.augment_time import at_positions, heart_rate_warp, temporal_dropout, time_shift
from trainer.filters import synthetic_beats

NONE = np.zeros((4, 0), np.float32)


def rng(seed=0):
    return np.random.default_rng(seed)


def ecg(rate_hz=100, records=4, seconds=10.0, period_s=0.8):
    """The same synthetic beats on all leads of all records, in millivolts."""
    beats = synthetic_beats(rate_hz, seconds, period_s).astype(np.float32)
    return np.repeat(np.repeat(beats[None, :, None], records, 0), 12, 2)


def noise(records=4, samples=1000, seed=0):
    return rng(seed).standard_normal((records, samples, 12), dtype=np.float32)


def signal_of(changed):
    return changed.ecg if isinstance(changed, Mixed) else changed


def beats_at(trace):
    """Where a synthetic record's R peaks stand, in samples."""
    inner = trace[1:-1]
    return np.flatnonzero((inner > 0.5 * trace.max()) & (inner >= trace[:-2]) & (inner > trace[2:])) + 1


@pytest.mark.parametrize("name", AUGMENTATIONS)
@pytest.mark.parametrize("rate_hz", [100, 500])
def test_an_augmentation_returns_a_changed_copy_of_the_same_shape(name, rate_hz):
    before = noise(4, 10 * rate_hz)
    given = before.copy()
    changed = signal_of(AUGMENTATIONS[name](given, rate_hz, rng()))
    np.testing.assert_array_equal(given, before)
    assert changed.shape == before.shape
    assert changed.dtype == np.float32
    assert not np.array_equal(changed, before)
    assert np.isfinite(changed).all()


@pytest.mark.parametrize("name", AUGMENTATIONS)
def test_one_seed_augments_alike_and_another_one_otherwise(name):
    first, again, other = (signal_of(AUGMENTATIONS[name](noise(), 100, rng(seed))) for seed in (1, 1, 2))
    np.testing.assert_array_equal(first, again)
    assert not np.array_equal(first, other)


# Time


@pytest.mark.parametrize("rate_hz", [100, 500])
def test_a_warped_heart_beats_within_five_percent_of_its_rate_and_not_at_it(rate_hz):
    warped = heart_rate_warp(ecg(rate_hz), rate_hz, rng(3))
    for record in warped:
        intervals_s = np.diff(beats_at(record[:, 0])[1:-1]) / rate_hz
        assert np.abs(0.8 / intervals_s - 1).max() < 0.05 + 1.5 / (0.8 * rate_hz)
        np.testing.assert_array_equal(record, record[:, :1].repeat(12, 1))
    assert not np.array_equal(warped[0], warped[1])


def test_speed_stays_within_its_limits_everywhere():
    ramp = np.arange(1000, dtype=np.float32)[None, :, None].repeat(12, 2).repeat(20, 0)
    speeds = np.diff(heart_rate_warp(ramp, 100, rng())[:, 30:-30, 0], axis=1)
    assert speeds.min() > 0.95 - 1e-3
    assert speeds.max() < 1.05 + 1e-3
    assert np.ptp(speeds) > 0.05


def test_positions_beyond_the_ends_are_mirrored():
    ramp = np.arange(5, dtype=np.float32)[None, :, None]
    read = at_positions(ramp, np.array([[-1.5, 0.0, 2.25, 4.0, 5.0]]))
    np.testing.assert_allclose(read[0, :, 0], [1.5, 0.0, 2.25, 4.0, 3.0])


def test_a_shifted_record_is_the_record_elsewhere_with_its_ends_held():
    records = noise(50)
    shifted = time_shift(records, 100, rng(), most_s=0.2)
    for before, after in zip(records, shifted, strict=True):
        fits = [shift for shift in range(-20, 21) if np.array_equal(np.roll(before, shift, 0)[20:-20], after[20:-20])]
        assert len(fits) == 1
        if fits[0] > 0:
            assert (after[: fits[0]] == before[0]).all()
    assert not np.array_equal(records, shifted)


@pytest.mark.parametrize("rate_hz", [100, 500])
def test_lost_moments_are_straight_lines_and_the_rest_is_untouched(rate_hz):
    records = noise(30, 10 * rate_hz)
    lost = temporal_dropout(records, rate_hz, rng(), longest_s=0.3, gaps=1)
    differs = (lost != records).any(2)
    assert differs.any()
    assert not differs[:, [0, -1]].any()
    for before, after, moments in zip(records, lost, differs, strict=True):
        gap = np.flatnonzero(moments)
        if not len(gap):
            continue
        first, last = gap[0] - 1, gap[-1] + 1
        assert last - first <= 0.3 * rate_hz + 1
        line = np.linspace(before[first], before[last], last - first + 1)
        np.testing.assert_allclose(after[first : last + 1], line, atol=1e-5)


# Noise


@pytest.mark.parametrize("rate_hz", [100, 500])
def test_the_band_keeps_the_ecg_without_delay_and_drops_drift_and_what_is_above(rate_hz):
    time_s = np.arange(10 * rate_hz) / rate_hz

    def gain(frequency_hz):
        wave = np.cos(2 * np.pi * frequency_hz * time_s).astype(np.float32)[None, :, None].repeat(12, 2)
        passed = band_pass(wave, rate_hz, rng(1))
        return float((passed * wave)[0, 100:-100].mean() / (wave**2)[0, 100:-100].mean())

    assert gain(10) == pytest.approx(1.0, abs=0.02)
    assert gain(0.02) < 0.35
    if rate_hz == 500:
        assert gain(120) < 0.2


def test_a_band_that_does_not_fit_the_rate_is_refused():
    with pytest.raises(SignalError, match="half of 80 Hz"):
        band_pass(noise(), 80, rng())


@pytest.mark.parametrize("rate_hz", [100, 500])
def test_movement_keeps_einthovens_law_and_its_limits(rate_hz):
    silence = np.zeros((20, 10 * rate_hz, 12), np.float32)
    added = motion_and_wander(silence, rate_hz, rng(), wander_mv=0.2, motion_mv=0.3)
    lead_i, lead_ii, lead_iii, avr, avl, avf = np.moveaxis(added[..., :6], -1, 0)
    np.testing.assert_allclose(lead_i + lead_iii, lead_ii, atol=1e-5)
    np.testing.assert_allclose(avr + avl + avf, 0.0, atol=1e-5)
    assert np.abs(added).max() < 2 * (0.2 + 2 * 0.3)
    assert np.ptp(added[:, :, 6], axis=1).min() > 0.005


@pytest.mark.parametrize("rate_hz", [100, 500])
def test_wander_is_slow(rate_hz):
    added = motion_and_wander(np.zeros((8, 20 * rate_hz, 12), np.float32), rate_hz, rng(), motion_mv=0.0)
    power = np.abs(np.fft.rfft(added * np.hanning(20 * rate_hz)[:, None], axis=1)) ** 2
    fast = np.fft.rfftfreq(20 * rate_hz, 1 / rate_hz) > 0.8
    assert power[:, fast].sum() < 1e-3 * power.sum()


def test_movement_is_for_the_twelve_leads():
    with pytest.raises(SignalError, match="not to 3"):
        motion_and_wander(noise()[..., :3], 100, rng())


def test_one_electrode_reaches_the_leads_it_belongs_to():
    matrix = leads_of_electrodes()
    np.testing.assert_allclose(matrix.sum(1), 0.0, atol=1e-12)  # a potential that all electrodes share is none
    np.testing.assert_array_equal(np.flatnonzero(matrix[:, 5]), [8])  # V3


@pytest.mark.parametrize("rate_hz", [100, 400])
def test_each_channel_has_a_level_of_noise_of_its_own(rate_hz):
    added = channel_noise(np.zeros((50, 10 * rate_hz, 12), np.float32), rate_hz, rng(), most_mv=0.04)
    levels = added.std(1)
    limit = 0.04 * np.sqrt(rate_hz / 100)
    assert levels.max() < 1.1 * limit
    assert levels.max() > 0.9 * limit
    assert levels.min() < 0.1 * limit
    assert np.abs(np.corrcoef(added[0].T) - np.eye(12)).max() < 0.2


# Two records


def test_mixup_is_a_weighted_sum_with_the_larger_share_for_the_record_itself():
    records = noise(16)
    mixed = mixup(records, 100, rng())
    assert (mixed.partners != np.arange(16)).all()
    assert (mixed.kept >= 0.5).all()
    share = mixed.kept[:, None, None]
    np.testing.assert_allclose(mixed.ecg, share * records + (1 - share) * records[mixed.partners], rtol=1e-6)


@pytest.mark.parametrize("rate_hz", [100, 500])
def test_cutmix_replaces_one_stretch_by_another_records_at_the_same_place(rate_hz):
    records = noise(16, 5 * rate_hz)
    mixed = segment_cutmix(records, rate_hz, rng(), shortest_s=0.5, longest_s=1.25)
    for row, partner in enumerate(mixed.partners):
        replaced = (mixed.ecg[row] != records[row]).all(1)
        stretch = np.flatnonzero(replaced)
        assert np.ptp(stretch) == len(stretch) - 1
        assert 0.5 <= len(stretch) / rate_hz <= 1.25
        np.testing.assert_array_equal(mixed.ecg[row, replaced], records[partner, replaced])
        assert mixed.kept[row] == pytest.approx(1 - replaced.mean())


def test_another_record_is_any_but_the_record_itself():
    assert {int(others(3, rng(seed))[0]) for seed in range(20)} == {1, 2}
    np.testing.assert_array_equal(others(1, rng()), [0])


# Recipes


def test_a_recipe_names_them_and_each_falls_on_its_share_of_the_records():
    records = noise(400, 100)
    changed, _ = augment(records, np.zeros((400, 1), np.float32), [Augmentation("channel_noise", 0.25)], 100, rng())
    assert 0.18 < (changed != records).any((1, 2)).mean() < 0.32


def test_targets_mix_as_their_records_do():
    ones = np.eye(8, dtype=np.float32)
    records = np.repeat(ones[:, None], 12, 1)  # each record shows what its target is
    changed, targets = augment(np.repeat(records, 4, 1), ones, [Augmentation("mixup", 0.7)], 100, rng())
    np.testing.assert_allclose(changed.mean(1), targets, atol=1e-6)
    np.testing.assert_allclose(targets.sum(1), 1.0, rtol=1e-6)
    assert (targets.max(1) < 1).any()


def test_without_augmentations_nothing_is_copied_or_drawn():
    records, generator = noise(), rng()
    assert augment(records, NONE, [], 100, generator)[0] is records
    assert generator.random() == rng().random()


@pytest.mark.parametrize(
    ("given", "named"),
    [
        ({"name": "warp"}, "heart_rate_warp"),
        ({"name": "mixup", "settings": {"rng": 1.0}}, "concentration"),
        ({"name": "mixup", "chance": 2.0}, "chance"),
    ],
)
def test_an_augmentation_that_is_none_is_answered_with_what_there_is(given, named):
    with pytest.raises(msgspec.ValidationError, match=named):
        msgspec.convert(given, Augmentation)


def dipole(records=3, samples=200):
    return rng(5).standard_normal((records, samples, 3))


def test_a_turned_dipole_is_as_strong_as_before_and_is_seen_by_all_leads_as_one():
    to_leads, to_heart = dipole_matrices()
    heart = dipole()
    turned = axis_turn((heart @ to_leads.T).astype(np.float32), 100, rng(), degrees=25.0, stretch=0.0)
    after = turned @ to_heart.T
    np.testing.assert_allclose(np.linalg.norm(after, axis=2), np.linalg.norm(heart, axis=2), rtol=1e-4)
    np.testing.assert_allclose(after @ to_leads.T, turned, atol=1e-5)
    assert not np.allclose(after, heart, atol=0.1)


def test_what_is_no_dipole_is_left_alone_and_einthoven_holds():
    to_leads, to_heart = dipole_matrices()
    leads = noise(3, 100)
    rest = (leads - leads @ to_heart.T @ to_leads.T).astype(np.float32)
    np.testing.assert_allclose(axis_turn(rest, 100, rng(), degrees=40.0), rest, atol=1e-5)
    leads[:, :, 2] = leads[:, :, 1] - leads[:, :, 0]
    turned = axis_turn(leads, 100, rng(), degrees=40.0)
    np.testing.assert_allclose(turned[:, :, 2], turned[:, :, 1] - turned[:, :, 0], atol=1e-4)


def test_a_heart_that_is_not_turned_is_the_same_and_only_twelve_leads_show_one():
    leads = noise(3, 100)
    np.testing.assert_allclose(axis_turn(leads, 100, rng(), degrees=0.0, stretch=0.0), leads, atol=1e-5)
    with pytest.raises(SignalError, match="12 leads, not in 3"):
        axis_turn(leads[:, :, :3], 100, rng())
