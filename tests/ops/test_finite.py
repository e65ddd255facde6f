"""Largest values against numpy; NaN and infinity wherever they stand, in every dtype."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from tokenkit.ops.finite import first_not_finite, fits, largest

DTYPES = [torch.float32, torch.bfloat16, torch.float16, torch.float64]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("size", [1, 7, 64, 1001])
def test_largest(dtype, size):
    tensor = torch.randn(size, generator=torch.Generator().manual_seed(size)).to(dtype)
    assert largest(tensor).double().item() == np.abs(tensor.double().numpy()).max()


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_one_is_enough(dtype, value):
    for place in (0, 500, 1000):
        tensor = torch.randn(1001).to(dtype)
        assert fits(tensor)
        tensor[place] = value
        assert not fits(tensor)


@pytest.mark.parametrize("value", [1e5, -1e5])
def test_what_another_dtype_cannot_hold(value):
    tensor = torch.tensor([0.0, value])
    assert fits(tensor) and fits(tensor, torch.bfloat16) and not fits(tensor, torch.float16)
    assert tensor.half().isinf().any()
    top = torch.tensor([torch.finfo(torch.float32).max])
    assert fits(top) and not fits(top, torch.bfloat16) and top.bfloat16().isinf()


def test_nothing_and_whole_numbers_fit():
    assert fits(torch.zeros(0)) and fits(torch.tensor([2**62])) and fits(torch.tensor([True]))
    assert fits(torch.tensor([1.0]).to(torch.float8_e4m3fn))
    assert not fits(torch.tensor([float("nan")]).to(torch.float8_e4m3fn))


def test_the_first_is_named():
    good, bad = torch.ones(3), torch.tensor([1.0, float("nan")])
    tensors = {"a": good, "n": torch.tensor(3), "e": torch.zeros(0), "c": bad.half(), "b": bad}
    assert first_not_finite(tensors) == "c"
    assert first_not_finite({"a": good, "b": bad.nan_to_num()}) is None
    assert first_not_finite({}) is None
