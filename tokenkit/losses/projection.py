"""Linear maps that belong to a loss; computed in fp32 whatever dtype FSDP gathers them in."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn


def linear(module: nn.Linear, states: Tensor) -> Tensor:
    """``module(states)`` in fp32."""
    return F.linear(states.float(), module.weight.float(), module.bias.float())
