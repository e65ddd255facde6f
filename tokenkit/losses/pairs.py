"""Positions of the student and the teacher that are held against each other."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from tokenkit.ops.segments import chunk_ends


class Pairs(NamedTuple):
    """P pairs, ``[P]`` int64 each: ``states[row, student]`` meets ``states[row, teacher]``."""

    row: Tensor
    student: Tensor
    teacher: Tensor

    @property
    def number(self) -> Tensor:
        """P, 0-d fp32."""
        return torch.full((), float(len(self.row)), device=self.row.device)


def chunk_end_pairs(student: Tensor, teacher: Tensor) -> Pairs:
    """Where chunks (ids ``[B, T_s]`` and ``[B, T_t]``, −1 none) end on both sides."""
    size = teacher.shape[1]
    mine, in_student = chunk_ends(student, size)
    theirs, in_teacher = chunk_ends(teacher, size)
    row, chunk = (in_student & in_teacher).nonzero(as_tuple=True)
    return Pairs(row, mine[row, chunk], theirs[row, chunk])
