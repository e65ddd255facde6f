"""The end of every optimizer step, whatever made the gradients."""

from __future__ import annotations

import torch
import torch.distributed as dist
from torch import Tensor, nn

from tokenkit.ops.gradients import clip_gradients
from tokenkit.training.optimizer import step_unless

SKIPPED = "same/skipped"  # metric: 1 where a step changed nothing, else 0


def must_be_finite(metrics: dict[str, Tensor]) -> dict[str, Tensor]:
    """Losses and norms of gradients among a step's metrics, by their plain names."""
    plain = {name.removeprefix("same/"): value for name, value in metrics.items()}
    return {
        name: value
        for name, value in plain.items()
        if name.partition("/")[0] in ("loss", "grad_norm")
    }


def update(
    model: nn.Module, optimizer: torch.optim.Optimizer, max_norm: float, metrics: dict[str, Tensor]
) -> dict[str, Tensor]:
    """Clip, step, zero; with a loss or a gradient that is not finite on any rank, no rank steps.

    Args:
        metrics: of the step so far.

    Returns:
        The metrics with ``same/grad_norm``, the gradients' global norm before clipping, and
        ``same/skipped``; 0-d on the device, which the CPU does not wait for.
    """
    trained = (p for p in model.parameters() if p.requires_grad)
    metrics = {**metrics, "same/grad_norm": clip_gradients(trained, max_norm)}
    skipped = _any_not_finite(list(must_be_finite(metrics).values()))
    step_unless(optimizer, skipped)
    optimizer.zero_grad(set_to_none=True)
    return {**metrics, SKIPPED: skipped}


@torch.no_grad()
def _any_not_finite(values: list[Tensor]) -> Tensor:
    """1 if one of these 0-d numbers is not finite on any rank, else 0; the same on all ranks."""
    finite = torch.stack([value.float() for value in values]).isfinite().all()
    skipped = finite.logical_not().float()
    dist.all_reduce(skipped, dist.ReduceOp.MAX)
    return skipped


def put_back(tensors: dict[str, Tensor], before: dict[str, Tensor], skipped: Tensor) -> None:
    """Give tensors their values of ``before`` again, in place, if the step was skipped."""
    with torch.no_grad():
        for name, tensor in tensors.items():
            tensor.copy_(torch.where(skipped.to(tensor.device) > 0, before[name], tensor))
