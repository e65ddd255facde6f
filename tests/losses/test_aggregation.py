"""Weights of losses against their definitions."""

from __future__ import annotations

import pytest
import torch

from tokenkit.losses.aggregation import approx_gradmag_weights, combine_weights
from tokenkit.losses.schedule import loss_weight

LAMBDAS = torch.tensor([1.0, 2.0, 0.5])
NORMS = torch.tensor([4.0, 0.1, 2.0])


def test_mean():
    torch.testing.assert_close(combine_weights("", LAMBDAS, None), LAMBDAS / 3)


def test_every_loss_gets_the_same_gradient_norm():
    weights = combine_weights("approx_gradmag", LAMBDAS, NORMS)
    torch.testing.assert_close(weights * NORMS, LAMBDAS)


def test_preserve_mag():
    equal = torch.ones(3)
    weights = combine_weights("approx_gradmag_preserve_mag", equal, NORMS)
    torch.testing.assert_close(weights.sum(), torch.tensor(1.0))
    torch.testing.assert_close(weights * NORMS, (weights * NORMS).mean().expand(3))
    weighted = approx_gradmag_weights(NORMS, LAMBDAS, preserve_mag=True)
    torch.testing.assert_close(weighted, LAMBDAS * weights)
    single = approx_gradmag_weights(NORMS[:1], LAMBDAS[:1], preserve_mag=True)
    torch.testing.assert_close(single, LAMBDAS[:1])


@pytest.mark.parametrize("preserve_mag", [False, True])
def test_a_loss_without_gradient_gets_no_weight(preserve_mag):
    weights = approx_gradmag_weights(torch.tensor([0.0, 2.0]), torch.ones(2), preserve_mag)
    assert weights[0] == 0 and weights[1] == (1.0 if preserve_mag else 0.5)
    none = approx_gradmag_weights(torch.zeros(2), torch.ones(2), preserve_mag)
    assert none.tolist() == [0.0, 0.0]


@pytest.mark.parametrize(
    ("kind", "expected"),
    [
        ("constant", [1.0, 1.0, 1.0, 1.0]),
        ("linear", [0.0, 0.25, 0.5, 0.75]),
        ("reverse_linear", [1.0, 0.75, 0.5, 0.25]),
        ("cosine", [1.0, 0.5 + 0.5**1.5, 0.5, 0.5 - 0.5**1.5]),
        ("reverse_cosine", [0.0, 0.5 - 0.5**1.5, 0.5, 0.5 + 0.5**1.5]),
    ],
)
def test_schedules(kind, expected):
    assert [loss_weight(kind, step, 8) for step in (0, 2, 4, 6)] == pytest.approx(expected)
