"""Optimizer groups: scale per pattern, no decay on vectors."""

from __future__ import annotations

import torch
from torch import nn

from tokenkit.config.schema import OptimizerConfig
from tokenkit.training.optimizer import build_optimizer, set_learning_rate


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
