"""Optimizer groups: scale per pattern, no decay on vectors."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from tokenkit.config.schema import OptimizerConfig
from tokenkit.training.optimizer import build_optimizer, set_learning_rate, step_unless


def test_groups():
    model = nn.ModuleDict({"vocabulary": nn.Linear(3, 2), "body": nn.Linear(2, 2)})
    model["body"].bias.requires_grad_(False)
    config = OptimizerConfig(
        weight_decay=0.1, lr_scale_patterns=["^vocabulary"], lr_scales=[2.0], lr=1e-3
    )
    optimizer = build_optimizer(model, config)
    set_learning_rate(optimizer, 0.5)
    found = {
        id(p): (group["lr"], group["weight_decay"])
        for group in optimizer.param_groups
        for p in group["params"]
    }
    assert found == {
        id(model["vocabulary"].weight): (1.0, 0.1),
        id(model["vocabulary"].bias): (1.0, 0.0),
        id(model["body"].weight): (0.5, 0.1),
    }


def test_step_equals_torch_adamw():
    torch.manual_seed(0)
    ours, theirs = nn.Linear(4, 4, bias=False), nn.Linear(4, 4, bias=False)
    theirs.load_state_dict(ours.state_dict())
    config = OptimizerConfig(lr=1e-2, weight_decay=0.1)
    optimizer = build_optimizer(ours, config)
    reference = torch.optim.AdamW(
        theirs.parameters(), lr=1e-2, betas=(0.9, 0.95), eps=1e-8, weight_decay=0.1
    )
    x = torch.randn(8, 4)
    for _ in range(3):
        for model, opt in ((ours, optimizer), (theirs, reference)):
            model(x).square().sum().backward()
            opt.step()
            opt.zero_grad()
    torch.testing.assert_close(ours.weight, theirs.weight)


def lay(tensor: torch.Tensor) -> torch.Tensor:
    """The same values, columns first in memory."""
    return tensor.t().contiguous().t()


@pytest.mark.parametrize("which", ["gradient", "parameter", "neither"])
def test_order_in_memory_does_not_count(which):
    """Torch's fused kernel for CPUs pairs elements by it; ours are laid out alike before."""
    torch.manual_seed(0)
    model, reference = (nn.Linear(24, 16, bias=False) for _ in range(2))
    if which == "parameter":
        model.weight = nn.Parameter(lay(model.weight.detach()))
    reference.load_state_dict(model.state_dict())
    optimizer = build_optimizer(model, OptimizerConfig(lr=1e-2, weight_decay=0.1))
    plain = torch.optim.AdamW(
        reference.parameters(), lr=1e-2, betas=(0.9, 0.95), weight_decay=0.1, fused=False
    )
    for _ in range(3):
        gradient = torch.randn(16, 24)
        model.weight.grad = lay(gradient) if which == "gradient" else gradient.clone()
        reference.weight.grad = gradient
        step_unless(optimizer, torch.tensor(0.0))
        plain.step()
    torch.testing.assert_close(model.weight, reference.weight, rtol=1e-5, atol=1e-6)
