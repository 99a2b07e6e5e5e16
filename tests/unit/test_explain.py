"""Explanations: captum over the window a device saw, with the state it had, and the same for every kind of model."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise
from typing import get_args, get_type_hints

import numpy as np
import pytest
import torch

from edge.errors import BundleError, RecordError
from edge.monitor.offline import score_recordings
from edge.replay.patient import simulate
from edge.replay.records import Recording, read_recording
from edge.runtime.bundle import load_bundle
from edge.runtime.manifest import Calibration
from edge.runtime.select import open_runtime
from edge.signal.leads import STANDARD_LEADS
from tests.ecg import millivolts, patient
from tests.tiny_bundle import tiny_bundle, tiny_checkpoint
from tests.windowed_bundles import windowed_bundle, windowed_checkpoint
from trainer.explain import attribution
from trainer.explain.attribution import METHODS, attribute, binned
from trainer.explain.subject import subject_of_bundle, subject_of_checkpoint
from trainer.explain.window import window_at
from trainer.model import EcgMamba, ModelConfig
from trainer.networks.registry import NETWORKS
from trainer.ptbxl import CLASSES

SUBJECTS = ["mamba", "mamba with votes", "resnet1d-wang", "mamba checkpoint", "lstm checkpoint"]


@pytest.fixture(scope="module")
def bundles(tmp_path_factory):
    folder = tmp_path_factory.mktemp("explained")
    return {
        "mamba": tiny_bundle(folder / "tiny"),
        "mamba with votes": tiny_bundle(folder / "votes", vote_hops=2),
        "resnet1d-wang": windowed_bundle(folder / "resnet"),
    }


@pytest.fixture(scope="module")
def subject_of(bundles):
    def make(name):
        if name == "mamba checkpoint":
            return subject_of_checkpoint(tiny_checkpoint())
        if name == "lstm checkpoint":
            return subject_of_checkpoint(windowed_checkpoint("lstm"))
        return subject_of_bundle(bundles[name])

    return make


@pytest.fixture(scope="module")
def shipped():
    return load_bundle()


def recording(seconds, rate_hz=100, seed=0):
    return Recording("test", rate_hz, STANDARD_LEADS, millivolts(patient(seconds, rate_hz, seed)), "a test")


@pytest.mark.parametrize("rate_hz", [100, 256, 500])
@pytest.mark.parametrize("seconds", [6, 10, 23])
@pytest.mark.parametrize("kind", ["mamba", "mamba with votes", "resnet1d-wang"])
def test_what_is_explained_is_the_score_of_the_device(bundles, kind, seconds, rate_hz):
    heard = recording(seconds, rate_hz)
    (hops,) = score_recordings(open_runtime(bundles[kind], "auto"), [heard.samples_mv], rate_hz)

    window = window_at(subject_of_bundle(bundles[kind]), heard)

    np.testing.assert_allclose(window.logits(), hops[-1].logits, atol=2e-5)
    assert window.last_index == hops[-1].last_index
    assert window.seconds == min(seconds, 10)


@pytest.mark.parametrize("kind", ["mamba", "mamba with votes"])
def test_any_hop_of_a_long_recording_can_be_explained_with_the_state_it_had(bundles, kind):
    heard = recording(31, 250)
    (hops,) = score_recordings(open_runtime(bundles[kind], "auto"), [heard.samples_mv], 250)
    subject = subject_of_bundle(bundles[kind])

    for hop in hops:
        np.testing.assert_allclose(window_at(subject, heard, hop.last_index).logits(), hop.logits, atol=2e-5)

    warm, cold = window_at(subject, heard, 30 * 250), window_at(subject, heard, 30 * 250, start=20 * 250)
    assert warm.first_s == cold.first_s == 20.0
    assert any(torch.any(warm.state[name] != cold.state[name]) for name in warm.state)


@pytest.mark.parametrize("off_s", [1, 7])
def test_a_stream_whose_lead_came_back_is_explained_from_where_the_device_began_it_afresh(bundles, off_s):
    heard = recording(31, 250)
    heard.samples_mv[8 * 250 + 13 : (8 + off_s) * 250 + 57, [1, 7]] = np.nan
    (hops,) = score_recordings(open_runtime(bundles["mamba"], "auto"), [heard.samples_mv], 250)
    subject = subject_of_bundle(bundles["mamba"])

    for hop in hops:
        seen = window_at(subject, heard, hop.last_index)
        np.testing.assert_allclose(seen.logits(), hop.logits, atol=2e-5)
        assert seen.last_index == hop.last_index
    afresh = [before.last_index for before, hop in pairwise(hops) if hop.last_index - before.last_index != 250]
    assert len(afresh) == (off_s == 7)
    for last_index in afresh:  # the device drops what is left of a hop before it begins afresh
        assert window_at(subject, heard, last_index + 260).last_index == last_index


@pytest.mark.parametrize("pooling", get_args(get_type_hints(ModelConfig)["pooling"]))
def test_a_window_at_once_is_its_hops_one_by_one_whatever_the_pooling(pooling):
    torch.manual_seed(3)
    model = EcgMamba(ModelConfig(d_model=8, n_layers=1, d_state=4, pooling=pooling)).eval()
    window = window_at(subject_of_checkpoint(replace(tiny_checkpoint(), model=model)), recording(10))
    state = model.initial_state(1)

    with torch.inference_mode():
        for hop in window.x.split(100, dim=1):
            logits, state = model(hop, state)

    np.testing.assert_allclose(window.logits(), logits[0].numpy(), atol=1e-5)


def test_what_comes_after_the_window_changes_nothing(bundles):
    subject, heard = subject_of_bundle(bundles["mamba"]), recording(20, 500)
    cut = Recording("cut", 500, STANDARD_LEADS, heard.samples_mv[: 12 * 500], "a test")

    assert torch.equal(window_at(subject, heard, 12 * 500 - 1).x, window_at(subject, cut).x)


@pytest.mark.parametrize("name", SUBJECTS)
def test_integrated_gradients_add_up_to_the_difference_from_a_flat_line(subject_of, name):
    window = window_at(subject_of(name), recording(17))

    found = attribute(window, "MI", "integrated-gradients")

    assert found.complete.total == pytest.approx(found.leads.sum())
    assert found.complete.total == pytest.approx(found.complete.difference, rel=0.05)


@pytest.mark.parametrize("name", SUBJECTS)
def test_occlusion_says_how_far_the_logit_falls_without_each_lead(subject_of, name):
    window = window_at(subject_of(name), recording(14))
    target = CLASSES.index("STTC")

    found = attribute(window, "STTC", "occlusion")

    for lead in range(12):
        without = window.x.clone()
        without[:, :, lead] = window.flat()[:, :, lead]
        fall = (window.evidence_of(window.x) - window.evidence_of(without))[0, target].item()
        assert found.leads[lead] == pytest.approx(fall, abs=1e-5)


def test_what_is_explained_is_the_published_probability(subject_of):
    leaning = Calibration([1.5] * 5, [0.3] * 5, (0.2 - 0.2 * np.eye(5)).tolist())
    window = window_at(replace(subject_of("mamba"), calibration=leaning), recording(12))
    published = window.subject.probabilities(window.logits())
    np.testing.assert_allclose(window.evidence_of(window.x)[0].sigmoid().tolist(), list(published.values()), rtol=1e-5)


def test_a_gradient_is_what_a_small_change_in_millivolts_does(subject_of):
    window = window_at(subject_of("mamba"), recording(12))
    found = attribute(window, "CD", "gradient")
    sample, lead = np.unravel_index(found.samples.argmax(), found.samples.shape)
    std_mv, step_mv = window.subject.signal.std_mv[lead], 0.01
    moved = window.x.repeat(2, 1, 1)
    moved[:, sample, lead] += torch.tensor([1.0, -1.0]) * step_mv / std_mv

    up, down = window.evidence_of(moved)[:, CLASSES.index("CD")].tolist()

    assert abs(up - down) / (2 * step_mv) == pytest.approx(found.samples[sample, lead], rel=0.05)


@pytest.mark.parametrize("method", METHODS)
def test_a_tenth_of_a_second_holds_what_its_samples_add_up_to(subject_of, method):
    found = attribute(window_at(subject_of("mamba"), recording(10)), "NORM", method)

    bins = found.bins(100)

    assert bins.shape == (100, 12)
    np.testing.assert_allclose(bins[37], found.samples[370:380].sum(0))
    np.testing.assert_allclose(bins.sum(0), found.samples.sum(0))


def test_tenths_of_a_second_need_not_be_whole_samples():
    bins = binned(np.ones((1280, 2)), 128)

    assert bins.shape == (100, 2)
    assert bins.sum() == 2560
    assert set(bins[:, 0]) == {12.0, 13.0}


@pytest.mark.parametrize("kind", NETWORKS)
@pytest.mark.parametrize("method", ["integrated-gradients", "occlusion"])
def test_every_kind_of_network_can_be_explained(kind, method, monkeypatch):
    if kind == "hubert-ecg":
        pytest.importorskip("transformers")
    monkeypatch.setattr(attribution, "STEPS", 4)
    monkeypatch.setattr(attribution, "OCCLUDED_S", 5.0)
    window = window_at(subject_of_checkpoint(windowed_checkpoint(kind)), recording(11))

    found = attribute(window, "HYP", method)

    assert found.samples.shape == (1000, 12)
    assert np.abs(found.leads).min() > 0


def test_less_than_a_hop_cannot_be_explained(subject_of):
    with pytest.raises(RecordError, match="less than a hop of 1 s"):
        window_at(subject_of("mamba"), recording(0.9))


def test_a_model_behind_a_zero_phase_filter_is_refused():
    with pytest.raises(BundleError, match="looks into the future"):
        subject_of_checkpoint(windowed_checkpoint("resnet1d-wang", signal={"filter": "zero_phase"}))


@pytest.mark.parametrize("method", ["occlusion", "integrated-gradients"])
@pytest.mark.parametrize(("ecg_id", "class_name"), [(39, "MI"), (17, "CD"), (87, "STTC"), (30, "HYP")])
def test_putting_the_most_salient_lead_flat_lowers_the_score_on_real_ecg(
    ptbxl_root, shipped, ecg_id, class_name, method
):
    """The lead is put flat where a lead comes off: in the recording, before the filter and the device's runtime.

    Records of which the model is not sure in every lead: what many leads show, one more or less does not change.
    """
    path = ptbxl_root / f"records100/00000/{ecg_id:05d}_lr"
    if not path.with_suffix(".hea").is_file():
        pytest.skip(f"this copy of PTB-XL has no record {ecg_id}")
    heard, target = read_recording(path), shipped.manifest.classes.index(class_name)
    window = window_at(subject_of_bundle(shipped), heard)

    found = attribute(window, class_name, method)

    without_most, without_least = heard.samples_mv.copy(), heard.samples_mv.copy()
    without_most[:, found.leads.argmax()] = 0.0
    without_least[:, found.leads.argmin()] = 0.0
    played = [heard.samples_mv, without_most, without_least]
    scored = score_recordings(open_runtime(shipped, "auto"), played, 100)
    whole, most, least = (hops[-1].logits[target] for hops in scored)
    assert most < min(whole, least) - 0.1
    if found.complete is not None:
        assert found.complete.total == pytest.approx(found.complete.difference, rel=0.03, abs=0.03)


def test_a_simulated_patient_is_explained_like_any_other(shipped):
    window = window_at(subject_of_bundle(shipped), simulate(12, 500))

    assert attribute(window, "NORM", "gradient").leads.min() > 0
