"""A training step in this process, its gradients kept."""

from __future__ import annotations

from types import SimpleNamespace

import torch
import torch.distributed as dist
from torch import Tensor, nn


class Recorder:
    """In an optimizer's place: keeps the gradients and leaves the parameters alone."""

    def __init__(self, model: nn.Module) -> None:
        self.model = model
        self.gradients: dict[str, Tensor] = {}

    def step(self) -> None:
        named = self.model.named_parameters()
        self.gradients = {name: p.grad.clone() for name, p in named if p.grad is not None}

    def zero_grad(self, set_to_none: bool) -> None:
        self.model.zero_grad(set_to_none)


def alone() -> SimpleNamespace:
    """The parallel layout of the one rank of an initialised process group."""
    return SimpleNamespace(dp_group=dist.group.WORLD, device=torch.device("cpu"))
