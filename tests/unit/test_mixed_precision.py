"""bfloat16 is computed in where the processor multiplies it, and nowhere else; what it was is kept with the weights."""

from __future__ import annotations

import pytest
import torch

from trainer import mixed_precision
from trainer.mixed_precision import MULTIPLIES_BFLOAT16, computed_in


@pytest.fixture(autouse=True)
def asked_anew():
    mixed_precision.multiplies_bfloat16.cache_clear()
    yield
    mixed_precision.multiplies_bfloat16.cache_clear()


def processor_that_can(monkeypatch, **capabilities):
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: capabilities, raising=False)


def product_type(precision):
    with mixed_precision.mixed_precision(precision, "cpu"):
        return (torch.ones(2, 2) @ torch.ones(2, 2)).dtype


@pytest.mark.parametrize("name", MULTIPLIES_BFLOAT16)
def test_a_processor_that_multiplies_bfloat16_does(monkeypatch, name):
    processor_that_can(monkeypatch, **{"avx2": True, name: True})
    assert computed_in("bfloat16", "cpu") == "bfloat16"
    assert product_type("bfloat16") == torch.bfloat16


def test_a_processor_that_would_emulate_it_computes_in_float32(monkeypatch):
    processor_that_can(monkeypatch, avx512_f=True, avx512_bf16=False)
    assert computed_in("bfloat16", "cpu") == "float32"
    assert product_type("bfloat16") == torch.float32


def test_float32_stays_float32_everywhere(monkeypatch):
    processor_that_can(monkeypatch, avx512_bf16=True)
    assert computed_in("float32", "cpu") == "float32"
    assert product_type("float32") == torch.float32


def test_a_pytorch_too_old_to_tell_does_what_it_was_asked(monkeypatch):
    monkeypatch.delattr(torch.cpu, "get_capabilities", raising=False)
    assert computed_in("bfloat16", "cpu") == "bfloat16"


@pytest.mark.parametrize(("native", "expected"), [(True, "bfloat16"), (False, "float32")])
def test_a_gpu_is_asked_for_its_own_and_not_for_an_emulation(monkeypatch, native, expected):
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation=True: including_emulation or native)
    assert computed_in("bfloat16", "cuda") == expected
