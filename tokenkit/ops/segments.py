"""Sums over chunks: segment sums on chunk ids, O(T) memory, no host synchronisation.

Chunk ids ``[B, T]`` run from 0 per row; −1 means no chunk. A row has room for C chunks.
"""

from __future__ import annotations

import torch
from torch import Tensor


def segment_sum(values: Tensor, ids: Tensor, size: int) -> Tensor:
    """Sum of values ``[B, T]`` per id → ``[B, size]``; ids outside [0, size) are dropped."""
    # Dropped entries go into one more column, which is cut off.
    slot = torch.where((ids >= 0) & (ids < size), ids, size).long()
    total = values.new_zeros(values.shape[0], size + 1)
    return total.scatter_add(1, slot, values)[:, :size]


def first_run_end(ids: Tensor, size: int) -> Tensor:
    """Last position of each id's first contiguous run → ``[B, size]`` int64 (0 for absent ids)."""
    batch, length = ids.shape
    position = torch.arange(length, device=ids.device).expand(batch, -1)
    following = torch.nn.functional.pad(ids[:, 1:], (0, 1), value=-1)
    ends = (following != ids) | (position == length - 1)
    slot = torch.where(ends & (ids >= 0) & (ids < size), ids, size).long()
    first = torch.full((batch, size + 1), length, device=ids.device)
    first = first.scatter_reduce(1, slot, position, "amin")[:, :size]
    return torch.where(first < length, first, 0)


def chunk_ends(ids: Tensor, size: int) -> tuple[Tensor, Tensor]:
    """Last position of each id (0 for absent ones) and which ids occur, ``[B, size]`` each."""
    present = segment_sum(torch.ones_like(ids, dtype=torch.float32), ids, size) > 0
    return first_run_end(ids, size), present
