"""The selective scan: the C kernel against the definition, values and gradients, from any initial state."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from trainer import kernel_library, scan_kernel
from trainer import scan as scans

BUILT = [name for _, name in kernel_library.BUILDS if kernel_library.load(name) is not None]


def arguments(batch, length, inner, states, dtype=torch.float32, scale_dt=1.0, seed=0):
    generator = torch.Generator().manual_seed(seed)

    def normal(*shape):
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    values = (
        normal(batch, length, inner),
        scale_dt * torch.nn.functional.softplus(normal(batch, length, inner)),
        -torch.exp(normal(inner, states)),
        normal(batch, length, states),
        normal(batch, length, states),
        normal(batch, inner, states),
    )
    return [value.to(dtype).requires_grad_() for value in values]


def values_and_gradients(scan, given_arguments):
    y, last = scan(*given_arguments)
    loss = (y * torch.cos(y.detach())).sum() + (last**2).sum()
    return [y, last, *torch.autograd.grad(loss, given_arguments)]


def relative(ours, exact):
    return float((ours.detach().double() - exact.detach()).norm() / exact.detach().norm().clamp(min=1e-12))


def test_the_kernel_was_built_for_this_machine():
    assert kernel_library.library() is not None
    assert scans.implementation_name() == "C"


@settings(max_examples=40)
@given(
    batch=st.integers(1, 5),
    length=st.integers(1, 130),
    inner=st.integers(1, 40),
    states=st.sampled_from(scan_kernel.STATES),
    scale_dt=st.sampled_from([0.01, 1.0, 30.0]),
)
def test_the_kernel_equals_the_definition_in_values_and_gradients(batch, length, inner, states, scale_dt):
    exact = values_and_gradients(scans.scan_reference, arguments(batch, length, inner, states, torch.float64, scale_dt))
    ours = values_and_gradients(scan_kernel.scan, arguments(batch, length, inner, states, scale_dt=scale_dt))
    # Where large steps make terms cancel, float32 itself is off: PyTorch's own error is then the measure.
    torch32 = values_and_gradients(scans.scan_reference, arguments(batch, length, inner, states, scale_dt=scale_dt))
    allowed = max(1e-5, 10 * max(map(relative, torch32, exact)))
    assert max(map(relative, ours, exact)) < allowed


@pytest.mark.parametrize("name", BUILT)
def test_every_build_this_processor_runs_gives_the_same(name, monkeypatch):
    needs = {build: level for level, build in kernel_library.BUILDS}[name]
    base = kernel_library.load("trainer._scan_base")
    if base.cpu_level() < needs:
        pytest.skip(f"this processor does not run {name}")
    expected = values_and_gradients(scan_kernel.scan, arguments(3, 77, 37, 16))
    built = kernel_library.load(name)
    monkeypatch.setattr(kernel_library, "library", lambda: built)
    actual = values_and_gradients(scan_kernel.scan, arguments(3, 77, 37, 16))
    assert max(relative(a, e.double()) for a, e in zip(actual, expected, strict=True)) < 1e-5


@given(cut=st.integers(1, 119), which=st.sampled_from([scans.scan_reference, scan_kernel.scan]))
def test_a_scan_cut_anywhere_goes_on_from_its_state(cut, which):
    u, dt, A, b, c, h0 = arguments(2, 120, 16, 8)
    whole, last = which(u, dt, A, b, c, h0)
    first, between = which(u[:, :cut], dt[:, :cut], A, b[:, :cut], c[:, :cut], h0)
    second, end = which(u[:, cut:], dt[:, cut:], A, b[:, cut:], c[:, cut:], between)
    assert torch.allclose(torch.cat([first, second], 1), whole, atol=1e-5)
    assert torch.allclose(end, last, atol=1e-5)


def test_the_number_of_threads_does_not_change_a_bit():
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(1)
        one = values_and_gradients(scan_kernel.scan, arguments(5, 60, 24, 16))
        torch.set_num_threads(3)
        three = values_and_gradients(scan_kernel.scan, arguments(5, 60, 24, 16))
    finally:
        torch.set_num_threads(before)
    assert all(torch.equal(a, b) for a, b in zip(one, three, strict=True))


def test_shapes_that_do_not_belong_together_are_refused_before_the_kernel_sees_them():
    u, dt, A, b, c, h0 = arguments(2, 10, 8, 16)
    with pytest.raises(ValueError, match="h0"):
        scan_kernel.scan(u, dt, A, b, c, h0[:1])
    with pytest.raises(ValueError, match="dt"):
        scan_kernel.scan(u, dt.double(), A, b, c, h0)


def test_what_the_kernel_cannot_take_goes_to_the_reference(monkeypatch):
    assert scans._choose(*arguments(1, 2, 3, 5)[:3:2]) is scans.scan_reference  # five states are not compiled in
    assert scans._choose(*arguments(1, 2, 3, 8, torch.float64)[:3:2]) is scans.scan_reference
    assert scans._choose(*arguments(1, 2, 3, 8)[:3:2]) is scan_kernel.scan
    monkeypatch.setenv(scans.CHOICE_VARIABLE, "torch")
    assert scans._choose(*arguments(1, 2, 3, 8)[:3:2]) is scans.scan_reference


def test_a_kernel_that_starts_from_zero_is_completed_by_linearity(monkeypatch):
    """mamba_ssm's CUDA kernel cannot be had here; a stand-in with its layout and its zero initial state can."""

    def from_zero(u, dt, A, b, c, return_last_state):
        wide = [x.transpose(1, 2) for x in (u, dt, b, c)]
        y, last = scans.scan_reference(wide[0], wide[1], A, wide[2], wide[3], torch.zeros_like(h0))
        return y.transpose(1, 2), last

    u, dt, A, b, c, h0 = arguments(2, 50, 6, 4, torch.float64)
    monkeypatch.setattr(scans, "_mamba_ssm_kernel", lambda: from_zero)
    expected = scans.scan_reference(u, dt, A, b, c, h0)
    actual = scans.scan_cuda(u, dt, A, b, c, h0)
    assert all(torch.allclose(a, e, atol=1e-12) for a, e in zip(actual, expected, strict=True))
