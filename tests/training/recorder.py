"""Gradients of a training step, kept instead of used."""

from __future__ import annotations

from torch import Tensor, nn


class Recorder:
    """In an optimizer's place: keeps the gradients and leaves the parameters alone."""

    def __init__(self, model: nn.Module) -> None:
        self.model = model
        self.gradients: dict[str, Tensor] = {}
        self.param_groups = [{"params": [p for p in model.parameters() if p.requires_grad]}]

    def step(self) -> None:
        named = self.model.named_parameters()
        self.gradients = {name: p.grad.clone() for name, p in named if p.grad is not None}

    def zero_grad(self, set_to_none: bool) -> None:
        self.model.zero_grad(set_to_none)
