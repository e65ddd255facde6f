"""Matrices whose rows are spread over tensor-parallel ranks, as DTensors sharded along rows."""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.tensor import DTensor, Shard, distribute_tensor


class Rows(NamedTuple):
    """This rank's rows of a matrix; ``group`` is None where it has all of them."""

    matrix: Tensor  # [rows, D]
    first: int
    group: dist.ProcessGroup | None

    def valid(self, total: int) -> int:
        """How many of this rank's rows are among the first ``total`` of the whole matrix."""
        return max(0, min(total - self.first, len(self.matrix)))

    def of(self, per_row: Tensor) -> Tensor:
        """This rank's part of a tensor ``[V]``."""
        return per_row[self.first : self.first + len(self.matrix)]


def local_rows(matrix: Tensor) -> Rows:
    """A whole matrix, or this rank's part of a sharded one; differentiable."""
    if not isinstance(matrix, DTensor):
        return Rows(matrix, 0, None)
    mesh = matrix.device_mesh
    step = -(-matrix.shape[0] // mesh.size())
    local = matrix.to_local(grad_placements=[Shard(0)])
    return Rows(local, min(mesh.get_local_rank() * step, matrix.shape[0]), mesh.get_group())


def whole_matrix(matrix: Tensor) -> Tensor:
    """All rows on every rank; differentiable, if all ranks compute the same from it."""
    return matrix.full_tensor() if isinstance(matrix, DTensor) else matrix


def shard_rows(module: nn.Module, mesh: DeviceMesh) -> None:
    """Spread a module's matrices over the ranks of a 1-D mesh."""
    for name, parameter in list(module.named_parameters(recurse=False)):
        sharded = distribute_tensor(parameter.detach(), mesh, [Shard(0)])
        made = nn.Parameter(sharded, requires_grad=parameter.requires_grad)
        module.register_parameter(name, made)


class _SumOverRanks(torch.autograd.Function):
    @staticmethod
    def forward(ctx, tensor: Tensor, group: dist.ProcessGroup) -> Tensor:
        total = tensor.clone()
        dist.all_reduce(total, group=group)
        return total

    @staticmethod
    def backward(ctx, grad: Tensor) -> tuple[Tensor, None]:
        return grad, None  # what follows is the same on all ranks, and so is its gradient


def sum_over_ranks(tensor: Tensor, group: dist.ProcessGroup | None) -> Tensor:
    """Sum of every rank's tensor; what is computed from it must be the same on all ranks."""
    return tensor if group is None else _SumOverRanks.apply(tensor, group)


def gather_columns(tensor: Tensor, widths: list[int], group: dist.ProcessGroup | None) -> Tensor:
    """Join every rank's columns ``[n, widths[rank]]`` to ``[n, Σ widths]``; no gradient."""
    if group is None:
        return tensor
    most = max(widths)
    padded = tensor.new_zeros(len(tensor), most)
    padded[:, : tensor.shape[1]] = tensor
    parts = [torch.empty_like(padded) for _ in widths]
    dist.all_gather(parts, padded, group=group)
    return torch.cat([part[:, :width] for part, width in zip(parts, widths, strict=True)], 1)
