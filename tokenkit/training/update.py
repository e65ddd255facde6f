"""The end of every optimizer step, whatever made the gradients."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from tokenkit.ops.gradients import clip_gradients


def update(model: nn.Module, optimizer: torch.optim.Optimizer, max_norm: float) -> Tensor:
    """Clip, step, zero; returns the gradients' global norm before clipping, 0-d."""
    trained = (p for p in model.parameters() if p.requires_grad)
    norm = clip_gradients(trained, max_norm)
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)
    return norm
