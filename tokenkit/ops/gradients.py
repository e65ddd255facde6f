"""Norms of gradients that may be sharded over any mesh."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence

import torch
import torch.distributed as dist
from torch import Tensor


@torch.no_grad()
def global_norm(tensors: Iterable[Tensor]) -> Tensor:
    """L2 norm over all elements of all tensors, each element counted once; fp32, same on all ranks.

    Plain tensors must be equal on all ranks (or there is one rank); of a ``DTensor``
    every mesh dimension that shards it is summed over.
    """
    return global_norms([list(tensors)])[0]


@torch.no_grad()
def global_norms(gradients: Sequence[Sequence[Tensor]]) -> Tensor:
    """:func:`global_norm` of each of L lists, ``[L]``; one message to each group of ranks."""
    squares: dict[tuple, list[tuple[int, Tensor]]] = defaultdict(list)
    for number, tensors in enumerate(gradients):
        by_groups: dict[tuple, list[Tensor]] = defaultdict(list)
        for tensor in tensors:
            by_groups[_shard_groups(tensor)].append(local_part(tensor))
        for groups, parts in by_groups.items():
            norms = torch._foreach_norm(parts, 2, dtype=torch.float32)
            squares[groups].append((number, torch.stack(norms).square().sum()))
    # Nothing is moved to the device, which would make the CPU wait for it.
    totals: list[list[Tensor]] = [[] for _ in gradients]
    for groups, found in squares.items():
        values = torch.stack([value for _, value in found])
        for group in groups:
            dist.all_reduce(values, group=group)
        for (number, _), value in zip(found, values, strict=True):
            totals[number].append(value)
    none = torch.zeros(())
    return torch.stack([torch.stack(found).sum().sqrt() if found else none for found in totals])


@torch.no_grad()
def sum_over_ranks(tensors: Sequence[Tensor], group: dist.ProcessGroup) -> None:
    """Sum tensors of one dtype over the ranks of a group, in place and in one message.

    Of those sharded over other ranks, the parts that are here.
    """
    parts = [local_part(tensor) for tensor in tensors]
    joined = torch.cat([part.flatten() for part in parts])
    dist.all_reduce(joined, group=group)
    sums = joined.split([part.numel() for part in parts])
    torch._foreach_copy_(parts, [s.view_as(part) for s, part in zip(sums, parts, strict=True)])


@torch.no_grad()
def gram_matrices(gradients: Sequence[Sequence[Tensor | None]], device: torch.device) -> Tensor:
    """Inner products ``[P, L, L]`` of L losses' gradients on each of P parameters; fp32.

    Each element of a sharded gradient is counted once; the result is the same on all ranks. None
    is a gradient of zero.
    """
    size = len(gradients)
    none = torch.zeros(size, size, device=device)
    grams: list[Tensor] = []
    sharded: dict[tuple, list[int]] = defaultdict(list)
    for place, column in enumerate(zip(*gradients, strict=True)):
        present = next((gradient for gradient in column if gradient is not None), None)
        if present is None:
            grams.append(none)
            continue
        if groups := _shard_groups(present):
            sharded[groups].append(place)
        zero = torch.zeros((), device=device).expand_as(local_part(present))
        rows = [zero if gradient is None else local_part(gradient) for gradient in column]
        flat = torch.stack([row.flatten().float() for row in rows])
        grams.append(flat @ flat.T)
    for groups, places in sharded.items():
        part = torch.stack([grams[place] for place in places])
        for group in groups:
            dist.all_reduce(part, group=group)
        for place, gram in zip(places, part, strict=True):
            grams[place] = gram
    return torch.stack(grams) if grams else none.expand(0, size, size)


def _sharded(tensor: Tensor) -> bool:
    """Whether it is a DTensor, whose module is large and not imported for those who have none."""
    return hasattr(tensor, "device_mesh")


def local_part(tensor: Tensor) -> Tensor:
    """A tensor itself, or this rank's part of a sharded one."""
    return tensor.to_local() if _sharded(tensor) else tensor


def _shard_groups(tensor: Tensor) -> tuple[dist.ProcessGroup, ...]:
    """Groups over which a tensor's elements are spread."""
    if not _sharded(tensor):
        return ()
    return tuple(
        tensor.device_mesh.get_group(dim)
        for dim, placement in enumerate(tensor.placements)
        if not placement.is_replicate()
    )


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
        if gradients:
            torch._foreach_mul_([local_part(gradient) for gradient in gradients], factor)
    return norm
