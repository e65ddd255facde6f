"""Norms of gradients that may be sharded over any mesh."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.tensor import DTensor


@torch.no_grad()
def global_norm(tensors: Iterable[Tensor]) -> Tensor:
    """L2 norm over all elements of all tensors, each element counted once; fp32, same on all ranks.

    Plain tensors must be equal on all ranks (or there is one rank); of a :class:`DTensor`
    every mesh dimension that shards it is summed over.
    """
    squares: dict[tuple, list[Tensor]] = defaultdict(list)
    for tensor in tensors:
        groups: tuple = ()
        if isinstance(tensor, DTensor):
            groups = tuple(
                tensor.device_mesh.get_group(dim)
                for dim, placement in enumerate(tensor.placements)
                if not placement.is_replicate()
            )
            tensor = tensor.to_local()
        squares[groups].append(torch.linalg.vector_norm(tensor, dtype=torch.float32).square())
    total = torch.zeros(())
    for groups, values in squares.items():
        value = torch.stack(values).sum()
        for group in groups:
            dist.all_reduce(value, group=group)
        total = total.to(value.device) + value
    return total.sqrt()


@torch.no_grad()
def clip_gradients(parameters: Iterable[Tensor], max_norm: float) -> Tensor:
    """Scale all gradients so that their global norm is at most ``max_norm`` (0: only measure).

    Returns:
        The norm before clipping, a 0-d tensor.
    """
    gradients = [p.grad for p in parameters if p.grad is not None]
    norm = global_norm(gradients)
    if max_norm > 0:
        factor = (max_norm / (norm + 1e-6)).clamp(max=1.0)
        for gradient in gradients:
            local = gradient.to_local() if isinstance(gradient, DTensor) else gradient
            local.mul_(factor)
    return norm
