"""The mean of rounded numbers is the number, and bits are as random ones."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from tokenkit.ops.stochastic_rounding import LOW, mix, round_stochastically

MANY = 2**16


def neighbours(value: float) -> tuple[float, float]:
    """bf16 numbers below and above (towards zero and away from it)."""
    word = int(np.float32(value).view(np.int32))
    below = np.int32(word & ~LOW).view(np.float32)
    return float(below), float(np.int32((word & ~LOW) + LOW + 1).view(np.float32))


@pytest.mark.parametrize("value", [1.001, -3.1415926, 0.999999, 1e-30, 7e-42, 2.0**-14 * 1.7])
def test_mean_over_all_bits_is_the_number(value):
    """Every one of the 2**16 equally likely draws once: nothing is left to chance."""
    value = float(np.float32(value))
    rounded = round_stochastically(torch.full((MANY,), value), torch.arange(MANY).int()).double()
    low, high = neighbours(value)
    assert set(rounded.tolist()) <= {low, high}
    assert rounded.mean().item() == pytest.approx(value, rel=1e-12)


def test_mean_over_mixed_words():
    """Within four standard deviations of draws that are independent; over places and over seeds."""
    value, (low, high) = 1.0021, neighbours(1.0021)
    up = (value - low) / (high - low)
    deviation = (up * (1 - up) / MANY) ** 0.5
    along = torch.arange(MANY, dtype=torch.int32)
    for words in (mix(along.clone()), mix(along * 7_919), mix(mix(along.clone()) + 5)):
        for bits in (words & LOW, (words >> 16) & LOW):
            rounded = round_stochastically(torch.full((MANY,), value), bits)
            share = (rounded == high).double().mean().item()
            assert share == pytest.approx(up, abs=4 * deviation)


def test_what_bf16_holds_stays():
    values = torch.tensor([0.0, -0.0, 1.5, -(2.0**-130), float("inf"), float("-inf"), float("nan")])
    for bits in (0, LOW):
        found = round_stochastically(values, torch.full((7,), bits, dtype=torch.int32))
        assert torch.equal(found.view(torch.int16), values.bfloat16().view(torch.int16))


@pytest.mark.parametrize("word", [0x7FFFFFFF, -1, 0x7F800001, 0x7FC00000])
def test_nan_stays_nan(word):
    values = torch.tensor([word], dtype=torch.int32).view(torch.float32)
    for bits in (0, LOW):
        assert round_stochastically(values, torch.tensor([bits], dtype=torch.int32)).isnan()


def murmur(word: int) -> int:
    """MurmurHash3's finaliser, as published, on Python's numbers."""
    word ^= word >> 16
    word = word * 0x85EBCA6B % 2**32
    word ^= word >> 13
    word = word * 0xC2B2AE35 % 2**32
    return word ^ word >> 16


def test_words():
    words = [0, 1, 2, 12345, 2**31 - 1, 2**31, 2**32 - 1, 0xDEADBEEF]
    given = torch.from_numpy(np.array(words, np.uint32).view(np.int32).copy())
    found = mix(given).numpy().view(np.uint32)
    assert found.tolist() == [murmur(word) for word in words]
    along = mix(torch.arange(MANY, dtype=torch.int32))
    assert len(along.unique()) == MANY
    bits = (along[:, None] >> torch.arange(32)) & 1
    correlation = torch.corrcoef(bits.double().T)
    assert (correlation - torch.eye(32)).abs().max() < 5 / MANY**0.5
    assert torch.corrcoef(torch.stack([along[1:], along[:-1]]).double())[0, 1].abs() < 0.02
