"""Differences of chunk log-probs against closed forms and limits in float64."""

from __future__ import annotations

import math

import pytest
import torch

from tests.losses.reference import difference
from tokenkit.losses.alm_diffs import DIFFERENCES, EPSILON, log1mexp

Y, X = torch.meshgrid(*2 * [-torch.logspace(-3, 1, 9, dtype=torch.float64)], indexing="ij")


@pytest.mark.parametrize("name", DIFFERENCES)
@pytest.mark.parametrize("tau", [1.0, 100.0])
def test_closed_form(name, tau):
    """Direct formulas in probabilities; fp32 loses at most what 1 − e^x' loses."""
    expected = difference(name, Y, X, tau, 2.0)
    torch.testing.assert_close(DIFFERENCES[name](Y, X, tau, 2.0), expected, rtol=1e-7, atol=1e-9)
    ours = DIFFERENCES[name](Y.float(), X.float(), tau, 2.0)
    torch.testing.assert_close(ours.double(), expected, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("name", DIFFERENCES)
def test_gradcheck(name):
    y, x = -torch.rand(2, 9, dtype=torch.float64).mul(4).add(0.1)
    x.requires_grad_()
    assert torch.autograd.gradcheck(lambda x: DIFFERENCES[name](y, x, 3.0, 2.0), (x,))


def test_temperature_limit():
    """τ · KL of the binary distributions tends to the closed form (their ε set aside)."""
    tau = 1e4
    p = (Y / tau).exp()
    kl = p * (Y - X) / tau + (1 - p) * (torch.expm1(Y / tau) / torch.expm1(X / tau)).log()
    ours = DIFFERENCES["binary_kl_temp_limit"](Y + EPSILON, X + EPSILON, tau, 2.0)
    torch.testing.assert_close(ours, tau * kl, rtol=1e-2, atol=1e-5)


def test_renyi_of_order_near_one_is_the_kl():
    p, q = (Y - EPSILON).exp(), (X - EPSILON).exp()
    kl = p * (p / q).log() + (1 - p) * ((1 - p) / (1 - q)).log()
    ours = DIFFERENCES["renyi"](Y, X, 1.0, 1.0 + 1e-7)
    torch.testing.assert_close(ours, kl, rtol=1e-4, atol=1e-6)


def test_log1mexp_is_stable_on_both_ends():
    values = [-1e-30, -1e-8, -1e-3, -math.log(2.0), -1.0, -20.0, -60.0]
    expected = torch.tensor([math.log(-math.expm1(a)) for a in values])
    x = torch.tensor(values, requires_grad=True)
    torch.testing.assert_close(log1mexp(x), expected, rtol=1e-6, atol=1e-9)
    (gradient,) = torch.autograd.grad(log1mexp(x).sum(), x)
    exact = torch.tensor([math.exp(a) / math.expm1(a) for a in values])
    torch.testing.assert_close(gradient, exact, rtol=1e-5, atol=1e-9)
