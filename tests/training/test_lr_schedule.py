"""Learning rates against torch's own schedulers and at their corners."""

from __future__ import annotations

import pytest
import torch
from torch.optim.lr_scheduler import CosineAnnealingLR, LinearLR, SequentialLR

from tokenkit.training.lr_schedule import learning_rate

SHAPE = {"lr": 3e-4, "steps": 50, "warmup_steps": 10}


def rates(**options):
    return [learning_rate(step, **{**SHAPE, **options}) for step in range(51)]


@pytest.mark.parametrize("decay", ["linear", "cosine"])
def test_equals_torch(decay):
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=3e-4)
    # torch's warm-up may not begin at exactly 0
    warmup = LinearLR(optimizer, start_factor=1e-12, total_iters=10)
    after = (
        CosineAnnealingLR(optimizer, T_max=40)
        if decay == "cosine"
        else LinearLR(optimizer, start_factor=1.0, end_factor=0.0, total_iters=40)
    )
    scheduler = SequentialLR(optimizer, [warmup, after], milestones=[10])
    expected = []
    for _ in range(51):
        expected.append(scheduler.get_last_lr()[0])
        optimizer.step()
        scheduler.step()
    assert rates(decay=decay) == pytest.approx(expected, rel=1e-6, abs=1e-12)


@pytest.mark.parametrize("decay", ["linear", "cosine", "constant"])
def test_corners(decay):
    found = rates(decay=decay)
    assert found[0] == 0.0 and found[10] == max(found) == 3e-4
    end = 3e-4 if decay == "constant" else 0.0
    assert found[50] == learning_rate(99, decay=decay, **SHAPE) == pytest.approx(end)


def test_no_warmup_starts_at_the_top():
    found = rates(decay="linear", warmup_steps=0)
    assert found[0] == 3e-4 and found[25] == pytest.approx(1.5e-4)


def test_prefix_delays_everything_else():
    prefixed = rates(decay="cosine", prefix_steps=8, prefix_lr=1e-3)
    assert prefixed[:8] == pytest.approx([1e-3 * step / 8 for step in range(8)])
    assert prefixed[8] == 0.0 and prefixed[18] == 3e-4
    plain = [
        learning_rate(s, lr=3e-4, steps=42, warmup_steps=10, decay="cosine") for s in range(43)
    ]
    assert prefixed[8:] == pytest.approx(plain)


def test_warmup_longer_than_training():
    found = [learning_rate(s, lr=1.0, steps=5, warmup_steps=10, decay="linear") for s in range(5)]
    assert found == pytest.approx([0.0, 0.1, 0.2, 0.3, 0.4])
