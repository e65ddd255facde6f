"""GradNorm's weights over two updates, worked out by hand."""

from __future__ import annotations

import pytest
import torch

from tokenkit.balance.gradnorm import GradNorm
from tokenkit.config import config_from_dict

CPU = torch.device("cpu")
CONFIG = config_from_dict({"loss": {"gradnorm_lr": 0.025, "gradnorm_alpha": 0.12}})


def test_two_updates_by_hand():
    """Three losses, lr 0.025, α 0.12; AdamW with β = (0.9, 0.999) and decay 1e-4.

    First update, norms (4, 1, 1), losses (2, 3, 1):
        every loss keeps all of its first value, so r = (1, 1, 1)
        ‖g‖ w = (4, 1, 1), mean 2, targets 2: the first is above, the others below
        gradient of the mean of |‖g‖ w − target|: (4, −1, −1) / 3
        Adam's first step is the sign: w = 1 · (1 − 0.025e-4) ∓ 0.025
            = (0.9749975, 1.0249975, 1.0249975), sum 3.0249925
        times 3 / 3.0249925: (0.9669422, 1.0165289, 1.0165289)

    Second update, norms (2.1, 2.1, 1.8), losses (1.6, 1.5, 0.35):
        kept (0.8, 0.5, 0.35), mean 0.55, r = (1.4545455, 0.9090909, 0.6363636)
        r^0.12 = e^(0.12 · (0.3746934, −0.0953102, −0.4519851)) = (1.0459894, 0.9886279, 0.9472064)
        ‖g‖ w = (2.0305786, 2.1347107, 1.8297520), mean 1.9983471
        targets (2.0902499, 1.9756217, 1.8928472): below, above, below
            (α = 0 would put the first above, α = 1 the last)
        gradient (−2.1, 2.1, −1.8) / 3 = (−0.7, 0.7, −0.6)
        m = 0.9 · 0.1 · (4, −1, −1) / 3 + 0.1 · (−0.7, 0.7, −0.6) = (0.05, 0.04, −0.09)
            / (1 − 0.9²): (0.2631579, 0.2105263, −0.4736842)
        v = 0.999 · 0.001 · (16, 1, 1) / 9 + 0.001 · (0.49, 0.49, 0.36)
            = (0.002266, 0.000601, 0.000471)
            / (1 − 0.999²): (1.1335668, 0.3006503, 0.2356178)
            with roots (1.0646910, 0.5483159, 0.4854048)
        steps 0.025 m / √v = (0.0061792, 0.0095988, −0.0243964)
        w = (0.9669422, 1.0165289, 1.0165289) · (1 − 0.025e-4) − steps
            = (0.9607606, 1.0069276, 1.0409228), sum 3.0086110
        times 3 / 3.0086110: (0.9580108, 1.0040457, 1.0379435)
    """
    gradnorm = GradNorm(CONFIG, 3, CPU)
    gradnorm.train(torch.tensor([4.0, 1.0, 1.0]), torch.tensor([2.0, 3.0, 1.0]))
    expected = torch.tensor([0.9669422, 1.0165289, 1.0165289])
    torch.testing.assert_close(gradnorm.weights.detach(), expected, rtol=0, atol=3e-7)
    gradnorm.train(torch.tensor([2.1, 2.1, 1.8]), torch.tensor([1.6, 1.5, 0.35]))
    expected = torch.tensor([0.9580108, 1.0040457, 1.0379435])
    torch.testing.assert_close(gradnorm.weights.detach(), expected, rtol=0, atol=3e-7)


@pytest.mark.parametrize("restore_at", [1, 2])
def test_state_continues_where_it_was(restore_at):
    """``tensors`` are the whole state: moments, step, first losses."""
    steps = [([4.0, 1.0], [2.0, 3.0]), ([2.0, 1.9], [1.6, 1.5]), ([1.0, 3.0], [1.5, 1.4])]
    whole, later = (GradNorm(CONFIG, 2, CPU) for _ in range(2))
    for number, (norms, losses) in enumerate(steps):
        if number == restore_at:
            for name, tensor in later.tensors().items():
                tensor.detach().copy_(whole.tensors()[name])
        whole.train(torch.tensor(norms), torch.tensor(losses))
        if number >= restore_at:
            later.train(torch.tensor(norms), torch.tensor(losses))
    assert torch.equal(whole.weights, later.weights)
