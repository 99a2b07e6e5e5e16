"""The signal path before the model: any chunking gives the same bits, and training gets what serving gets."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import signal

from edge.errors import LeadsError, SignalError
from edge.signal import kernel
from edge.signal.bandpass import CausalBandpass
from edge.signal.frontend import Frontend, FrontendSpec, normalise, normalise_numpy, process_records
from edge.signal.leads import STANDARD_LEADS, LeadMap
from edge.signal.resample import SUPPORTED_RATES_HZ, CausalResampler, design_polyphase, resample, resample_numpy
from edge.signal.sections import filter_sections, filter_sections_numpy, steady_state
from trainer.filters import design_bandpass, st_shift_uv, synthetic_beats

SPEC = FrontendSpec(100, design_bandpass(100), np.zeros(2), np.full(2, 0.3))


def beats(rate_hz: int, seconds: float = 4.0) -> np.ndarray:
    one = synthetic_beats(rate_hz, seconds)
    return np.stack([one + 0.7, -2.0 * one], axis=1)


def cut(samples: np.ndarray, edges: list[int]) -> list[np.ndarray]:
    return np.split(samples, sorted(edge % len(samples) for edge in edges))


@given(rate_hz=st.sampled_from(SUPPORTED_RATES_HZ), edges=st.lists(st.integers(0, 10_000), max_size=30))
def test_any_chunking_gives_the_same_bits(rate_hz, edges):
    samples = beats(rate_hz)
    whole = Frontend(SPEC, rate_hz).process(samples)
    frontend = Frontend(SPEC, rate_hz)
    parts = [frontend.process(part) for part in cut(samples, edges)]
    assert np.array_equal(np.concatenate([p.model_input for p in parts]), whole.model_input)
    assert np.array_equal(np.concatenate([p.raw_mv for p in parts]), whole.raw_mv)


def test_the_trainer_filters_whole_records_to_the_very_bits_a_stream_gets():
    records = np.stack([beats(100), 3.0 * beats(100)])
    batch = process_records(SPEC, records)
    for record, expected in zip(records, batch, strict=True):
        assert np.array_equal(Frontend(SPEC, 100).process(record).model_input, expected)


@given(cut_at=st.integers(1, 1999), rate_hz=st.sampled_from(SUPPORTED_RATES_HZ))
def test_a_saved_front_end_goes_on_as_if_nothing_had_happened(cut_at, rate_hz):
    samples = beats(rate_hz, 2000 / rate_hz + 0.01)[:2000]
    first = Frontend(SPEC, rate_hz)
    first.process(samples[:cut_at])
    second = Frontend(SPEC, rate_hz)
    second.load(first.save())
    expected = first.process(samples[cut_at:]).model_input
    assert np.array_equal(second.process(samples[cut_at:]).model_input, expected)


@pytest.mark.parametrize("rate_hz", SUPPORTED_RATES_HZ)
def test_every_rate_resamples_with_the_stated_delay_and_no_ripple_on_a_constant(rate_hz):
    time_s = np.arange(3 * rate_hz) / rate_hz
    resampler = CausalResampler(rate_hz, 100)
    sine = resampler.process(np.sin(2 * np.pi * 8 * time_s)[:, None])[:, 0]
    expected = np.sin(2 * np.pi * 8 * (np.arange(len(sine)) / 100 - resampler.delay_s))
    assert len(sine) == 300
    assert np.abs(sine - expected)[50:].max() < 2e-3
    constant = CausalResampler(rate_hz, 100).process(np.full((rate_hz, 1), 1.7))
    assert np.allclose(constant, 1.7, atol=1e-12)


def test_what_would_alias_into_the_band_is_suppressed():
    time_s = np.arange(5000) / 500
    hum = CausalResampler(500, 100).process(np.sin(2 * np.pi * 85 * time_s)[:, None])[100:]
    assert np.abs(hum).max() < 1e-3


def test_an_offset_does_not_ring_at_the_start():
    filtered = CausalBandpass(SPEC.sos).process(np.full((500, 2), 4.2))
    assert np.abs(filtered).max() < 1e-9


def test_the_default_band_leaves_the_st_segment_alone_and_a_steep_one_does_not():
    default = st_shift_uv(design_bandpass(500), 500)
    steep = st_shift_uv(design_bandpass(500, (0.5, 40.0), high_pass_order=4), 500)
    assert abs(default) < 10
    assert steep < -40


@pytest.mark.parametrize("band_hz", [(0.0, 40.0), (40.0, 0.5), (0.5, 60.0)])
def test_a_band_that_does_not_fit_the_rate_is_refused(band_hz):
    with pytest.raises(SignalError):
        design_bandpass(100, band_hz)


def test_an_unknown_rate_is_refused_with_the_known_ones():
    with pytest.raises(SignalError, match="supported: 100, 125"):
        CausalResampler(123, 100)


@given(order=st.permutations(range(12)), upper=st.booleans())
def test_leads_in_any_order_and_case_are_mapped(order, upper):
    given_names = [STANDARD_LEADS[k].upper() if upper else STANDARD_LEADS[k] for k in order]
    samples = np.array(order)[None, :]
    assert LeadMap.between(given_names).select(samples).tolist() == [list(range(12))]


def test_a_missing_lead_is_reported_by_name():
    with pytest.raises(LeadsError) as refused:
        LeadMap.between([name for name in STANDARD_LEADS if name != "V3"])
    assert refused.value.missing == ("V3",)


def test_a_lead_given_twice_is_refused():
    with pytest.raises(SignalError, match="twice"):
        LeadMap.between([*STANDARD_LEADS, "avr"])


# In C and in NumPy

sections_of = st.sampled_from(
    [design_bandpass(100), design_bandpass(500, (0.5, 40.0), 4, 4), np.array([[1.0, 0, 0, 1, 0, 0]])]
)


@given(sections_of, st.integers(0, 40), st.integers(1, 16), st.integers(1, 3), st.integers(0, 2**32 - 1))
def test_sections_in_c_and_in_numpy_agree_to_the_last_bit_and_so_does_scipy(sos, count, leads, streams, seed):
    rng = np.random.default_rng(seed)
    samples, state = rng.normal(size=(streams, count, leads)), rng.normal(size=(len(sos), streams, 2, leads))
    expected, expected_state = samples.copy(), state.copy()
    filter_sections_numpy(sos, expected, expected_state)
    filtered, carried = samples.copy(), state.copy()
    filter_sections(sos, filtered, carried)
    np.testing.assert_array_equal(filtered, expected)
    np.testing.assert_array_equal(carried, expected_state)
    if count:
        by_scipy, its_state = signal.sosfilt(sos, samples, axis=1, zi=state)
        np.testing.assert_array_equal(by_scipy, expected)
        np.testing.assert_array_equal(its_state, expected_state)


@pytest.mark.parametrize("run", [filter_sections, filter_sections_numpy])
def test_the_filter_of_an_electrode_unplugged_comes_to_rest(run):
    """What has died away is zero, and nothing between: there a processor takes a hundred times as long."""
    sos = design_bandpass(100, (0.5, 40.0))
    state = np.random.default_rng(0).normal(size=(len(sos), 1, 2, 1))
    smallest = []
    for _ in range(60):
        run(sos, np.zeros((1, 100, 1)), state)
        smallest.append(np.abs(state[state != 0.0]).min(initial=1.0))
    assert not state.any()
    assert min(smallest) >= 1e-30


@given(st.integers(0, 40), st.integers(1, 16), st.integers(0, 2**32 - 1))
def test_normalisation_in_c_and_in_numpy_agrees_to_the_last_bit(count, leads, seed):
    rng = np.random.default_rng(seed)
    spec = FrontendSpec(100, design_bandpass(100), rng.normal(size=leads), rng.uniform(0.1, 3.0, size=leads))
    filtered_mv = 10.0 ** rng.uniform(-6, 3) * rng.normal(size=(count, leads))
    np.testing.assert_array_equal(normalise(spec, filtered_mv), normalise_numpy(spec, filtered_mv))


@pytest.mark.parametrize("band_hz", [(0.05, 40.0), (0.5, 40.0)])
def test_the_steady_state_is_scipys(band_hz):
    sos = design_bandpass(100, band_hz, 4, 4)
    np.testing.assert_allclose(steady_state(sos), signal.sosfilt_zi(sos), rtol=1e-9, atol=1e-12)


@given(st.sampled_from(SUPPORTED_RATES_HZ[1:]), st.integers(1, 12), st.integers(0, 2**32 - 1))
def test_resampling_in_c_and_in_numpy_agrees_to_the_last_bit(rate_hz, leads, seed):
    up, down, phases = design_polyphase(rate_hz, 100)
    inputs = np.random.default_rng(seed).normal(size=(rate_hz, leads))
    first = -(-phases.shape[1] * up // down)
    count = (rate_hz * up - 1) // down + 1 - first
    expected = resample_numpy(phases, down, inputs, first, count)
    np.testing.assert_array_equal(resample(phases, down, inputs, first, count), expected)


@pytest.mark.parametrize("rate_hz", SUPPORTED_RATES_HZ[1:])
def test_the_resampler_is_scipys_polyphase_filter(rate_hz):
    samples = np.random.default_rng(0).normal(size=(3 * rate_hz, 2))
    up, down, phases = design_polyphase(rate_hz, 100)
    taps = phases.T.reshape(-1)
    whole = signal.upfirdn(taps, samples, up, down, axis=0)[50:300]
    np.testing.assert_allclose(resample(phases, down, samples, 50, 250), whole, atol=1e-12)


def test_without_a_compiler_the_front_end_gives_the_same_bits(monkeypatch):
    samples = np.random.default_rng(0).normal(size=(700, 2))
    compiled = Frontend(SPEC, 250).process(samples).model_input
    monkeypatch.setattr(kernel, "library", lambda: None)
    np.testing.assert_array_equal(Frontend(SPEC, 250).process(samples).model_input, compiled)


def test_the_device_path_needs_no_scipy():
    code = "import sys, edge.daemon.node, edge.cli.run; sys.exit('scipy' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)
