"""Differences between a teacher's and a student's chunk log-prob (ALM, arXiv 2503.20083, §3).

Each takes y (teacher) and x (student), any shape, fp32, ≤ 0, and returns the same shape. With
τ the temperature and ε = 1e-6, a' stands for a / τ − ε.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

EPSILON = 1e-6
Difference = Callable[[Tensor, Tensor, float, float], Tensor]


def log1mexp(a: Tensor) -> Tensor:
    """log(1 − e^a) for a < 0, stable on both ends."""
    near = a > -math.log(2.0)
    # Each branch gets an argument that is safe for it, so that no gradient becomes NaN.
    small = torch.where(near, a, -1.0)
    large = torch.where(near, -1.0, a)
    return torch.where(near, (-torch.expm1(small)).log(), torch.log1p(-large.exp()))


def absolute(y: Tensor, x: Tensor, tau: float, alpha: float) -> Tensor:
    """|y − x|"""
    return (y - x).abs()


def binary_ce(y: Tensor, x: Tensor, tau: float, alpha: float) -> Tensor:
    """−[e^y' x' + (1 − e^y') log(1 − e^x')]"""
    y, x = y / tau - EPSILON, x / tau - EPSILON
    return -(y.exp() * x - torch.expm1(y) * log1mexp(x))


def reverse_binary_kl(y: Tensor, x: Tensor, tau: float, alpha: float) -> Tensor:
    """e^x' (x' − y') + (1 − e^x') (log(1 − e^x') − log(1 − e^y'))"""
    y, x = y / tau - EPSILON, x / tau - EPSILON
    return x.exp() * (x - y) - torch.expm1(x) * (log1mexp(x) - log1mexp(y))


def abs_exp(y: Tensor, x: Tensor, tau: float, alpha: float) -> Tensor:
    """|e^y' − e^x'|"""
    return ((y / tau - EPSILON).exp() - (x / tau - EPSILON).exp()).abs()


def binary_kl_temp_limit(y: Tensor, x: Tensor, tau: float, alpha: float) -> Tensor:
    """Limit of the binary KL for τ → ∞: (y − x) + y log(−x) − y log(−y)"""
    y, x = y - EPSILON, x - EPSILON
    return (y - x) + y * (-x).log() - y * (-y).log()


def renyi(y: Tensor, x: Tensor, tau: float, alpha: float) -> Tensor:
    """Rényi divergence of order α between the binary distributions."""
    y, x = y - EPSILON, x - EPSILON
    happened = alpha * y + (1 - alpha) * x
    did_not = alpha * log1mexp(y) + (1 - alpha) * log1mexp(x)
    return torch.logaddexp(happened, did_not) / (alpha - 1)


def joschu_k2(y: Tensor, x: Tensor, tau: float, alpha: float) -> Tensor:
    """((y − x) / τ)² / 2 (the low-variance KL estimator k2)"""
    return ((y - x) / tau).square() / 2


def joschu_k3(y: Tensor, x: Tensor, tau: float, alpha: float) -> Tensor:
    """e^r − 1 − r with r = (y − x) / τ (the unbiased KL estimator k3)"""
    r = (y - x) / tau
    return torch.expm1(r) - r


DIFFERENCES: dict[str, Difference] = {
    "abs": absolute,
    "binary_ce": binary_ce,
    "reverse_binary_kl": reverse_binary_kl,
    "binary_kl_temp_limit": binary_kl_temp_limit,
    "abs_exp": abs_exp,
    "renyi": renyi,
    "joschu_k2": joschu_k2,
    "joschu_k3": joschu_k3,
}
