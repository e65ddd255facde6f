"""Weights of losses."""

from __future__ import annotations

import pytest
import torch

from tokenkit.losses.aggregation import combine_weights
from tokenkit.losses.schedule import loss_weight


def test_plain_mean():
    weights = combine_weights("", torch.tensor([1.0, 3.0]), None)
    assert weights.tolist() == [0.5, 1.5]


def test_gradient_norms_become_equal():
    norms = torch.tensor([2.0, 0.5, 10.0])
    weights = combine_weights("approx_gradmag", torch.ones(3), norms)
    torch.testing.assert_close(weights * norms, torch.ones(3))
    kept = combine_weights("approx_gradmag_preserve_mag", torch.ones(3), norms)
    torch.testing.assert_close(kept.sum(), torch.tensor(1.0))
    torch.testing.assert_close(kept * norms, (kept * norms)[:1].expand(3))


def test_loss_weights_keep_their_meaning():
    norms = torch.tensor([2.0, 0.5])
    weights = combine_weights("approx_gradmag_preserve_mag", torch.tensor([1.0, 4.0]), norms)
    strength = weights * norms
    torch.testing.assert_close(strength[1], 4 * strength[0])


def test_vanishing_gradient_gets_no_weight():
    weights = combine_weights("approx_gradmag", torch.ones(2), torch.tensor([0.0, 1.0]))
    assert weights.tolist() == [0.0, 1.0]


@pytest.mark.parametrize(
    ("kind", "values"),
    [("constant", [1, 1, 1]), ("linear", [1, 0.5, 0]), ("cosine", [1, 0.5, 0]),
     ("reverse_cosine", [0, 0.5, 1])],
)  # fmt: skip
def test_schedules(kind, values):
    assert [loss_weight(kind, step, 10) for step in (0, 5, 10)] == pytest.approx(values)
