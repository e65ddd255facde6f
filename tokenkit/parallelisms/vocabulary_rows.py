"""Vocabularies over several ranks: rows sharded by tensor parallelism, predictions shared."""

from __future__ import annotations

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.tensor import DTensor, Shard, distribute_tensor

from tokenkit.models.vocabulary.placement import Placement, Rows, Sharing
from tokenkit.models.vocabulary.table import Vocabulary
from tokenkit.parallelisms.collectives import sum_parts


class ShardedRows(Placement):
    """Every rank of a 1-D mesh has some of the rows, as DTensors sharded along them."""

    def __init__(self, mesh: DeviceMesh) -> None:
        self.mesh = mesh

    @property
    def group(self) -> dist.ProcessGroup:
        return self.mesh.get_group()

    def _step(self, rows: int) -> int:
        """Rows of every rank but the last ones."""
        return -(-rows // self.mesh.size())

    def local(self, matrix: Tensor) -> Rows:
        rows = matrix.shape[0]
        local = matrix.to_local(grad_placements=[Shard(0)])
        first = min(self.mesh.get_local_rank() * self._step(rows), rows)
        return Rows(local, first, self.group)

    def whole(self, matrix: Tensor) -> Tensor:
        return matrix.full_tensor() if isinstance(matrix, DTensor) else matrix

    def join_lookups(self, found: Tensor) -> Tensor:
        return sum_parts(found, self.group)

    def join_columns(self, logits: Tensor, rows: int, valid: int) -> Tensor:
        step = self._step(rows)
        widths = [max(0, min(valid - first, step)) for first in range(0, rows, step)]
        padded = logits.new_zeros(len(logits), max(widths))
        padded[:, : logits.shape[1]] = logits
        parts = [torch.empty_like(padded) for _ in widths]
        dist.all_gather(parts, padded, group=self.group)
        joined = [part[:, :width] for part, width in zip(parts, widths, strict=True)]
        return torch.cat(joined, 1)


def shard_rows(vocabulary: Vocabulary, mesh: DeviceMesh) -> None:
    """Spread a vocabulary's matrices over the ranks of a 1-D mesh."""
    for name, parameter in list(vocabulary.named_parameters(recurse=False)):
        sharded = distribute_tensor(parameter.detach(), mesh, [Shard(0)])
        made = nn.Parameter(sharded, requires_grad=parameter.requires_grad)
        vocabulary.register_parameter(name, made)
    vocabulary.placement = ShardedRows(mesh)


class SharedPrediction(Sharing):
    """Rank r of n predicts tokens r, r + n, r + 2n …: long ones may all be at the end."""

    def __init__(self, group: dist.ProcessGroup) -> None:
        self.group = group
        self.rank, self.ranks = dist.get_rank(group), dist.get_world_size(group)

    def mine(self, per_token: Tensor) -> Tensor:
        return per_token[self.rank :: self.ranks]

    def gather(self, mine: Tensor, count: int) -> Tensor:
        padded = self._padded(mine.detach(), count)
        gathered = padded.new_empty(self.ranks, *padded.shape)
        dist.all_gather_into_tensor(gathered.flatten(0, 1), padded, group=self.group)
        return gathered.transpose(0, 1).flatten(0, 1)[:count]

    def reduce(self, whole: Tensor) -> Tensor:
        parts = whole.new_zeros(self.ranks, -(-len(whole) // self.ranks), *whole.shape[1:])
        for rank in range(self.ranks):
            mine = whole[rank :: self.ranks]
            parts[rank, : len(mine)] = mine
        summed = torch.empty_like(parts[0])
        dist.reduce_scatter_tensor(summed, parts.flatten(0, 1), group=self.group)
        return summed[: len(whole[self.rank :: self.ranks])]

    def _padded(self, part: Tensor, count: int) -> Tensor:
        missing = -(-count // self.ranks) - len(part)
        return torch.cat([part, part.new_zeros(missing, *part.shape[1:])]) if missing else part
