"""What surrounds the scan: the C kernels against the definition, values and gradients, on every build."""

from __future__ import annotations

import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st

from trainer import kernel_library, mixer, mixer_kernel
from trainer.scan import CHOICE_VARIABLE

BUILT = [name for _, name in kernel_library.BUILDS if kernel_library.load(name) is not None]


def normal(*shape, seed=0, scale=1.0, dtype=torch.float32):
    generator = torch.Generator().manual_seed(seed)
    return (scale * torch.randn(*shape, generator=generator, dtype=torch.float64)).to(dtype).requires_grad_()


def convolution_of(batch, length, inner, taps, scale=1.0, dtype=torch.float32):
    shapes = (batch, length, inner), (batch, inner, taps - 1), (inner, 1, taps), (inner,)
    return [normal(*shape, seed=seed, scale=scale, dtype=dtype) for seed, shape in enumerate(shapes)]


def gate_of(batch, length, inner, scale=1.0, dtype=torch.float32):
    shapes = (batch, length, inner), (batch, length, inner), (inner,), (batch, length, inner)
    return [normal(*shape, seed=seed, scale=scale, dtype=dtype) for seed, shape in enumerate(shapes)]


def values_and_gradients(function, arguments):
    result = function(*arguments)
    weights = normal(*result.shape, seed=9, dtype=result.dtype).detach()
    return [result, *torch.autograd.grad((result * weights).sum(), arguments)]


def largest_difference(ours, exact):
    return max(
        float((a.detach().double() - e.detach()).abs().max() / e.detach().abs().max().clamp(min=1e-9))
        for a, e in zip(ours, exact, strict=True)
    )


def error_of_pytorch(function, arguments, exact):
    """How far PyTorch's own float32 is off, as it is where large terms cancel: the measure there."""
    with pytest.MonkeyPatch.context() as patched:
        patched.setenv(CHOICE_VARIABLE, "torch")
        return largest_difference(values_and_gradients(function, arguments), exact)


@settings(max_examples=40)
@given(
    batch=st.integers(1, 4),
    length=st.integers(1, 70),
    inner=st.integers(1, 40),
    taps=st.integers(2, 16),
    scale=st.sampled_from([0.01, 1.0, 30.0]),
)
def test_the_convolution_equals_the_definition_in_values_and_gradients(batch, length, inner, taps, scale):
    exact = values_and_gradients(mixer.convolve, convolution_of(batch, length, inner, taps, scale, torch.float64))
    arguments = convolution_of(batch, length, inner, taps, scale)
    assert mixer_kernel.fits(arguments[0], taps)
    ours = largest_difference(values_and_gradients(mixer_kernel.convolve, arguments), exact)
    assert ours < max(1e-5, 10 * error_of_pytorch(mixer.convolve, arguments, exact))


@settings(max_examples=40)
@given(
    batch=st.integers(1, 4),
    length=st.integers(1, 70),
    inner=st.integers(1, 40),
    scale=st.sampled_from([0.01, 1.0, 30.0, 200.0]),
)
@example(batch=1, length=8, inner=1, scale=200.0)
def test_the_gate_equals_the_definition_in_values_and_gradients(batch, length, inner, scale):
    exact = values_and_gradients(mixer.gate, gate_of(batch, length, inner, scale, torch.float64))
    arguments = gate_of(batch, length, inner, scale)
    ours = largest_difference(values_and_gradients(mixer_kernel.gate, arguments), exact)
    assert ours < max(2e-5, 10 * error_of_pytorch(mixer.gate, arguments, exact))


@pytest.mark.parametrize("name", BUILT)
def test_every_build_this_processor_runs_gives_the_same(name, monkeypatch):
    needs = {build: level for level, build in kernel_library.BUILDS}[name]
    if kernel_library.load("trainer._scan_base").cpu_level() < needs:
        pytest.skip(f"this processor does not run {name}")
    built = kernel_library.load(name)
    monkeypatch.setattr(kernel_library, "library", lambda: built)
    for taps in (3, 4):
        exact = values_and_gradients(mixer.convolve, convolution_of(3, 50, 37, taps, dtype=torch.float64))
        ours = values_and_gradients(mixer_kernel.convolve, convolution_of(3, 50, 37, taps))
        assert largest_difference(ours, exact) < 1e-5
    exact = values_and_gradients(mixer.gate, gate_of(3, 50, 37, dtype=torch.float64))
    assert largest_difference(values_and_gradients(mixer_kernel.gate, gate_of(3, 50, 37)), exact) < 1e-5


def test_the_number_of_threads_does_not_change_a_bit():
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(1)
        one = values_and_gradients(mixer_kernel.convolve, convolution_of(5, 60, 24, 4))
        torch.set_num_threads(3)
        three = values_and_gradients(mixer_kernel.convolve, convolution_of(5, 60, 24, 4))
    finally:
        torch.set_num_threads(before)
    assert all(torch.equal(a, b) for a, b in zip(one, three, strict=True))


def test_shapes_that_do_not_belong_together_are_refused_before_the_kernel_sees_them():
    x, tail, weight, bias = convolution_of(2, 10, 8, 4)
    with pytest.raises(ValueError, match="tail"):
        mixer_kernel.convolve(x, tail[:1], weight, bias)
    y, u, skip, gates = gate_of(2, 10, 8)
    with pytest.raises(ValueError, match="gates"):
        mixer_kernel.gate(y, u, skip, gates[:, :5])


def test_what_the_kernels_cannot_take_goes_to_pytorch(monkeypatch):
    monkeypatch.setattr(mixer_kernel, "_Convolve", None)  # calling the kernel would fail
    mixer.convolve(*convolution_of(1, 5, 3, 4, dtype=torch.float64))
    mixer.convolve(*convolution_of(1, 5, 3, 17))
    with torch.autocast("cpu", torch.bfloat16):
        mixer.convolve(*convolution_of(1, 5, 3, 4))
    with pytest.raises(AttributeError):
        mixer.convolve(*convolution_of(1, 5, 3, 4))
