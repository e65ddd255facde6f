"""Which part of a tensor a rank holds: a box of it, however meshes and placements are.

Every tensor is saved as boxes that do not overlap. A rank that wants another box, since ranks or
layout changed, copies what its box and the saved ones have in common.
"""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor
from torch.distributed.tensor import DTensor, Shard

from tokenkit.ops.gradients import local_part


class Box(NamedTuple):
    """A part of a tensor: its first element and its extent along each dimension."""

    begin: tuple[int, ...]
    size: tuple[int, ...]

    def common(self, other: Box) -> Box | None:
        """What both have; None if nothing."""
        begin = tuple(map(max, self.begin, other.begin))
        ends = [min(b + s, c + t) for b, s, c, t in zip(*self, *other, strict=True)]
        size = tuple(end - first for end, first in zip(ends, begin, strict=True))
        return Box(begin, size) if all(n > 0 for n in size) else None

    def within(self, outer: Box) -> tuple[slice, ...]:
        """Where it lies in a tensor that holds the ``outer`` box alone."""
        firsts = [b - o for b, o in zip(self.begin, outer.begin, strict=True)]
        return tuple(slice(f, f + n) for f, n in zip(firsts, self.size, strict=True))


def box_of(tensor: Tensor) -> Box:
    """Which box of the whole tensor is here."""
    shape = tuple(tensor.shape)
    begin, size = [0] * len(shape), list(shape)
    if not isinstance(tensor, DTensor):
        return Box(tuple(begin), tuple(size))
    mesh = tensor.device_mesh
    splits = [
        (mesh_dim, placement)
        for mesh_dim, placement in enumerate(tensor.placements)
        if hasattr(placement, "dim")
    ]
    # FSDP splits what tensor parallelism has left, though its mesh dimension comes first: its
    # placement is a strided one. So plain ones are applied before those.
    for mesh_dim, placement in sorted(splits, key=lambda split: type(split[1]) is not Shard):
        ranks, rank, dim = mesh.size(mesh_dim), mesh.get_local_rank(mesh_dim), placement.dim
        step = -(-size[dim] // ranks)
        first = min(rank * step, size[dim])
        begin[dim] += first
        size[dim] = min(step, size[dim] - first)
    found = Box(tuple(begin), tuple(size))
    assert found.size == tuple(tensor.to_local().shape), (found, tensor.placements)
    return found


def saved_here(tensor: Tensor, rank: int) -> bool:
    """Whether this rank saves its box: of the ranks with the same box, one does."""
    if local_part(tensor).numel() == 0 and tensor.numel() > 0:
        return False
    if not isinstance(tensor, DTensor):
        return rank == 0
    mesh = tensor.device_mesh
    copies = [d for d, placement in enumerate(tensor.placements) if not hasattr(placement, "dim")]
    # A mesh of some ranks has brothers with the same tensors; the one with rank 0 saves them.
    return bool((mesh.mesh == 0).any()) and all(mesh.get_local_rank(d) == 0 for d in copies)
