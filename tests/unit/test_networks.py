"""The windowed networks: as large as their originals, and each of them a function of its own record alone."""

from __future__ import annotations

import io
import warnings
from dataclasses import replace

import msgspec
import numpy as np
import onnxruntime
import pytest
import torch

from tests.small_networks import ecg, small_config, small_network
from trainer.networks.cardionet import CardioNet, CardioNetConfig, WindowLengthError
from trainer.networks.inception import InceptionConfig
from trainer.networks.registry import NETWORKS, build_network, config_type
from trainer.networks.rnn import Lstm, LstmConfig
from trainer.networks.s4 import DiagonalSsm, DropChannels, S4Config, evenly_spaced_modes, legendre_modes
from trainer.networks.simple_cnn import SimpleCnn2d, SimpleCnn2dConfig
from trainer.networks.ssl_encoder import SslEncoder, SslEncoderConfig
from trainer.networks.xresnet import XresnetConfig, halved

PARAMETERS = {
    "cardionet-xl": 4_135_717, "inception1d": 507_653, "lstm": 903_685, "resnet18-1d": 2_256_965,
    "s4-ecg": 2_186_245, "simple-cnn-1d": 46_757, "simple-cnn-2d": 6_613, "ssl-encoder": 539_909,
    "xresnet1d101": 1_872_261, "hubert-ecg": 30_211_717, "resnet1d-wang": 473_349,
}  # fmt: skip

SAMPLES = [250, 500, 1000]
KINDS_AND_SAMPLES = [
    (kind, samples) for kind in NETWORKS for samples in SAMPLES if kind != "cardionet-xl" or samples == 1000
]


def onnx_session(network, x):
    """The network as a graph that takes any number of records as long as these."""
    file, axes = io.BytesIO(), {"x": {0: "batch"}, "y": {0: "batch"}}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the exporter warns of itself and of shapes that a trace fixes
        torch.onnx.export(
            network, (x,), file, dynamo=False, opset_version=17, input_names=["x"], output_names=["y"],
            dynamic_axes=axes,
        )  # fmt: skip
    return onnxruntime.InferenceSession(file.getvalue(), providers=["CPUExecutionProvider"])


@pytest.mark.parametrize("kind", NETWORKS)
def test_a_network_is_as_large_as_its_original(kind):
    with torch.device("meta"):
        network = build_network(kind, config_type(kind)())
    assert sum(p.numel() for p in network.parameters() if p.requires_grad) == PARAMETERS[kind]


@pytest.mark.parametrize(
    ("shape", "parameters"),
    [
        ({"d_model": 768, "n_layers": 12, "n_heads": 12}, 92_801_925),
        ({"d_model": 960, "n_layers": 16, "n_heads": 12, "layer_drop": 0.0}, 187_648_581),
    ],
)
def test_the_larger_huberts_are_as_large_as_stated(shape, parameters):
    with torch.device("meta"):
        network = build_network("hubert-ecg", msgspec.convert(shape, config_type("hubert-ecg")))
    assert sum(p.numel() for p in network.parameters()) == parameters


@pytest.mark.parametrize("d_state", [8, 64])
def test_s4_has_about_two_million_parameters_with_either_state(d_state):
    with torch.device("meta"):
        network = build_network("s4-ecg", S4Config(d_state=d_state))
    assert sum(p.numel() for p in network.parameters()) == 2_186_245 + (d_state - 8) * 2 * 2 * 512 * 4


@pytest.mark.parametrize("kind", NETWORKS)
def test_a_network_of_other_leads_and_classes_is_one_line_of_configuration(kind):
    config = small_config(kind, n_leads=3, n_classes=71)
    network = build_network(kind, config).eval()
    with torch.inference_mode():
        assert network(ecg()[:, :, :3]).shape == (2, 71)


@pytest.mark.parametrize(("kind", "samples"), KINDS_AND_SAMPLES)
def test_logits_of_a_record_do_not_depend_on_its_neighbours_or_the_call(kind, samples):
    network, x = small_network(kind), ecg(3, samples)
    with torch.inference_mode():
        together = network(x)
        again, alone = network(x), network(x[1:2])
    assert together.shape == (3, 5)
    assert torch.equal(together, again)
    assert torch.allclose(alone, together[1:2], atol=1e-5)
    assert not torch.allclose(together[0], together[1], atol=1e-5)


@pytest.mark.parametrize("kind", NETWORKS)
def test_gradients_reach_every_parameter(kind):
    network = small_network(kind)
    network(ecg(3)).square().sum().backward()
    unreached = [name for name, p in network.named_parameters() if p.grad is None or not p.grad.any()]
    assert unreached == []


@pytest.mark.parametrize("kind", NETWORKS)
def test_training_in_bfloat16_stays_finite(kind):
    network = small_network(kind).train()
    with torch.autocast("cpu", torch.bfloat16):
        logits = network(ecg(4))
    logits.float().square().sum().backward()
    assert all(p.grad is None or p.grad.isfinite().all() for p in network.parameters())


@pytest.mark.parametrize(("kind", "samples"), KINDS_AND_SAMPLES)
def test_the_onnx_graph_says_what_the_network_says(kind, samples):
    network = small_network(kind)
    session = onnx_session(network, ecg(2, samples, seed=1))
    x = ecg(3, samples, seed=2)
    with torch.inference_mode():
        expected = network(x).numpy()
    (given,) = session.run(None, {"x": x.numpy()})
    assert np.abs(given - expected).max() < 1e-4


def test_lstm_features_know_nothing_of_later_samples():
    network = Lstm(LstmConfig(d_model=16)).eval()
    x = ecg(1, 300)
    changed = x.clone()
    changed[:, 200:] = 5.0
    with torch.inference_mode():
        before, after = network.features(x), network.features(changed)
    assert torch.equal(before[:, :200], after[:, :200])
    assert not torch.allclose(before[:, 200:], after[:, 200:])


@pytest.mark.parametrize("modes", [evenly_spaced_modes, legendre_modes])
@pytest.mark.parametrize("samples", [1, 63, 64, 65, 250])
def test_the_state_space_model_is_its_recurrence_in_both_directions(samples, modes):
    torch.manual_seed(0)
    ssm = DiagonalSsm(3, *modes(4), block=64)
    u, direct = torch.randn(3, 2, samples), torch.randn(3)
    with torch.inference_mode():
        ahead = recurrence(ssm, slice(0, 3), u)
        back = recurrence(ssm, slice(3, 6), u.flip(2)).flip(2)
        expected = ahead + back + direct[:, None, None].double() * u
        assert torch.allclose(ssm(u, direct).double(), expected, atol=1e-5)


def recurrence(ssm: DiagonalSsm, scanned: slice, u: torch.Tensor) -> torch.Tensor:
    """Some of the scanned channels, one sample of u (channels, batch, samples) after another, in float64."""
    a = torch.complex(-ssm.A_log[scanned].exp(), ssm.A_imag[scanned]).to(torch.complex128)
    decay = torch.exp(a * ssm.log_dt[scanned].exp()[:, None])[:, None]  # (channels, 1, modes)
    gain = torch.view_as_complex(ssm.C.double())[scanned, None]
    state = torch.zeros(len(u), u.shape[1], a.shape[1], dtype=torch.complex128)
    steps = []
    for sample in u.to(torch.complex128).unbind(2):
        state = decay * state + (decay - 1) / a[:, None] * sample[:, :, None]
        steps.append(2 * (gain * state).sum(2).real)
    return torch.stack(steps, 2)


@pytest.mark.parametrize("order", [2, 8, 64])
def test_legendre_modes_give_back_the_normal_part_of_hippo_legs(order):
    """Its response from B to B, Bᵀ exp(At) B, is that of the matrix as the paper writes it: A_nk = -√((2n+1)(2k+1))."""
    n = torch.arange(order, dtype=torch.float64)
    b = torch.sqrt(2 * n + 1)
    hippo = -(torch.outer(b, b).tril(-1) + torch.diag(n + 1))
    normal = hippo + torch.outer(torch.sqrt(n + 0.5), torch.sqrt(n + 0.5))
    rates, gains = (part.double() for part in legendre_modes(order // 2))
    assert (torch.diff(rates, prepend=torch.zeros(1)) > 0).all()
    for t in (0.0, 0.01, 0.1, 0.5):
        expected = b @ torch.linalg.matrix_exp(normal * t) @ b
        modes = 2 * gains**2 * torch.exp(torch.complex(torch.full_like(rates, -0.5), rates) * t).real
        assert modes.sum().item() == pytest.approx(expected.item(), rel=1e-4, abs=1e-3 * order)


@pytest.mark.parametrize("init", ["lin", "legs"])
def test_s4_starts_its_modes_where_it_is_told(init):
    rates, gains = {"lin": evenly_spaced_modes, "legs": legendre_modes}[init](4)
    ssm = build_network("s4-ecg", small_config("s4-ecg", modes_init=init, d_model=512)).layers[0].ssm
    assert torch.equal(ssm.A_imag, rates.expand(1024, 4))
    assert torch.allclose(ssm.C.square().sum(2).mean(0).sqrt(), gains, rtol=0.1)


def test_s4_reads_a_record_in_both_directions():
    network = small_network("s4-ecg")
    layer, x = network.layers[0], torch.randn(1, 200, 16)
    changed = x.clone()
    changed[:, 100] += 1.0
    with torch.inference_mode():
        moved = (layer(changed) - layer(x)).abs().amax(2)[0]
    assert moved[:100].max() > 1e-3
    assert moved[101:].max() > 1e-3


def test_s4_drops_channels_of_a_record_whole():
    drop, x = DropChannels(0.5).train(), torch.ones(4, 16, 10)
    torch.manual_seed(0)
    for over in (1, 2):
        dropped = drop(x, over).movedim(over, 2)
        assert torch.equal(dropped, dropped[:, :, :1].expand_as(dropped))
        assert dropped.unique().tolist() == [0.0, 2.0]
    assert torch.equal(drop.eval()(x, 1), x)


def test_cardionet_refuses_a_window_of_another_length():
    with pytest.raises(WindowLengthError, match="1000 samples and was given 250"):
        CardioNet(CardioNetConfig())(ecg(1, 250))


def test_the_picture_has_every_lead_in_five_rows_from_the_top():
    network = SimpleCnn2d(SimpleCnn2dConfig())
    x = torch.zeros(1, 1000, 12)
    x[:, :, 3] = 1.0
    picture = network.picture(x)
    assert picture.shape == (1, 1, 64, 256)
    assert torch.equal(picture[0, 0].sum(1).nonzero()[:, 0], torch.arange(15, 20))


def test_the_encoder_gives_its_features_before_the_last_layer():
    network = SslEncoder(SslEncoderConfig()).eval()
    with torch.inference_mode():
        features = network.features(ecg())
        assert features.shape == (2, 256)
        assert torch.equal(network(ecg()), network.head(features))


def test_halving_averages_neighbours_and_keeps_a_last_one_without():
    assert torch.equal(halved(torch.tensor([[[1.0, 3.0, 5.0]]])), torch.tensor([[[2.0, 5.0]]]))


def test_residual_branches_of_xresnet_start_at_zero():
    network = build_network("xresnet1d101", XresnetConfig(blocks=(1, 1)))
    assert all(not block.last_norm.weight.any() for block in network.blocks)


def test_inception_looks_as_far_as_its_longest_kernels():
    network = build_network("inception1d", replace(InceptionConfig(), filters=4)).eval()
    x = torch.zeros(1, 12, 400)
    changed = x.clone()
    changed[:, :, 200] = 1.0
    with torch.inference_mode():
        moved = (network.groups(changed) - network.groups(x)).abs().amax(1)[0].nonzero()[:, 0]
    assert moved.min() >= 200 - 6 * 19
    assert moved.max() <= 200 + 6 * 19
