"""fp32 to bf16 such that the mean is the number itself, by random bits that are computed."""

from __future__ import annotations

import torch
from torch import Tensor

CUT = 16  # bits of an fp32 number that bf16 does not have
LOW = 2**CUT - 1


def mix(words: Tensor) -> Tensor:
    """Random-looking words of consecutive ones: MurmurHash3's 32-bit finaliser (a permutation).

    Args:
        words: int32, any shape; overwritten.
    """
    for shift, factor in ((16, 0x85EBCA6B), (13, 0xC2B2AE35)):
        _fold(words, shift).mul_(factor - 2**32)
    return _fold(words, 16)


def _fold(words: Tensor, shift: int) -> Tensor:
    # Shifts of int32 bring the sign along, which the mask takes away.
    return words.bitwise_xor_((words >> shift).bitwise_and_(2 ** (32 - shift) - 1))


def round_stochastically(values: Tensor, bits: Tensor) -> Tensor:
    """One of the two bf16 numbers around each value; the nearer, the likelier.

    Args:
        values: fp32. Zeros, infinities and NaN stay what they are.
        bits: int32 of the same shape, uniform in [0, 2**16).
    """
    # The magnitude is an integer: a carry from the bits that are cut rounds it up. It would make
    # another number of NaN.
    rounded = (values.view(torch.int32) + bits).bitwise_and_(~LOW).view(torch.float32)
    return torch.where(values.isnan(), values, rounded).bfloat16()
