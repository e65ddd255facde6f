"""Global norms and clipping against torch's own, on plain tensors."""

from __future__ import annotations

import pytest
import torch

from tokenkit.ops.gradients import clip_gradients, global_norm


def parameters():
    torch.manual_seed(0)
    made = [torch.nn.Parameter(torch.randn(4, 3)), torch.nn.Parameter(torch.randn(5))]
    for parameter in made:
        parameter.grad = torch.randn_like(parameter)
    return made


def test_global_norm():
    gradients = [p.grad for p in parameters()]
    expected = torch.cat([g.flatten() for g in gradients]).norm()
    torch.testing.assert_close(global_norm(gradients), expected)


@pytest.mark.parametrize("max_norm", [0.5, 100.0])
def test_clip_equals_torch(max_norm):
    ours, theirs = parameters(), parameters()
    norm = clip_gradients(ours, max_norm)
    expected = torch.nn.utils.clip_grad_norm_(theirs, max_norm)
    torch.testing.assert_close(norm, expected)
    for a, b in zip(ours, theirs, strict=True):
        torch.testing.assert_close(a.grad, b.grad)


def test_zero_only_measures():
    ours, before = parameters(), parameters()
    clip_gradients(ours, 0.0)
    for a, b in zip(ours, before, strict=True):
        assert torch.equal(a.grad, b.grad)
