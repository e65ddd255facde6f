"""What a checkpoint holds: all that training changes, and constants that it was begun with."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from tokenkit.parallelisms.fsdp import reshard
from tokenkit.training.optimizer import trainable_parameters

MOMENTS = ("step", "exp_avg", "exp_avg_sq")


def tensors_to_save(model: nn.Module, optimizer: torch.optim.Optimizer | None) -> dict[str, Tensor]:
    """``model.<name>`` and ``optimizer.<name>.<moment>``; Adam's moments are created if missing.

    Persistent buffers are among them: constants that would have to be computed again to the last
    bit.
    """
    reshard(model)
    persistent = model.state_dict().keys()
    parameters = trainable_parameters(model)
    tensors = {f"model.{name}": p.detach() for name, p in parameters.items()}
    tensors |= {f"model.{name}": b for name, b in model.named_buffers() if name in persistent}
    if optimizer is None:
        return tensors
    for name, parameter in parameters.items():
        state = optimizer.state[parameter]
        if not state:
            state["step"] = torch.zeros((), dtype=torch.float32)
            state["exp_avg"] = torch.zeros_like(parameter.detach())
            state["exp_avg_sq"] = torch.zeros_like(parameter.detach())
        tensors |= {f"optimizer.{name}.{moment}": state[moment] for moment in MOMENTS}
    return tensors
