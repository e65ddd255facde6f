"""Positions of the student and the teacher that are held against each other.

How many there are decides the sizes of tensors. So they are found where batches are made, on the
CPU: found in the step, the device would have to be asked for their number, and waited for.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from tokenkit.batch import Sequences
from tokenkit.ops.segments import chunk_ends


@dataclass(frozen=True)
class Pairs:
    """P pairs of places in the flattened rows, ``[P]`` int64 each; see :func:`at`."""

    student: Tensor
    teacher: Tensor

    @property
    def number(self) -> Tensor:
        """P, 0-d fp32."""
        return how_many(self.student)


def how_many(places: Tensor) -> Tensor:
    """The length of ``places``, 0-d fp32 on their device, which writes it itself."""
    return torch.full((), float(len(places)), device=places.device)


def flat(row: Tensor, place: Tensor, length: int) -> Tensor:
    """Where rows of ``length`` that follow each other have ``place`` of ``row``."""
    return row * length + place


def at(states: Tensor, places: Tensor) -> Tensor:
    """``[P, ...]`` of ``[B, T, ...]``."""
    return states.flatten(0, 1).index_select(0, places)


def chunk_end_pairs(student: Tensor, teacher: Tensor) -> Pairs:
    """Where chunks (ids ``[B, T_s]`` and ``[B, T_t]``, −1 none) end on both sides."""
    size = teacher.shape[1]
    mine, in_student = chunk_ends(student, size)
    theirs, in_teacher = chunk_ends(teacher, size)
    row, chunk = (in_student & in_teacher).nonzero(as_tuple=True)
    return Pairs(flat(row, mine[row, chunk], student.shape[1]), flat(row, theirs[row, chunk], size))


def ends_of_chunks(student: Sequences, teacher: Sequences, kind: str, active: bool) -> Pairs:
    """Where aligned chunks end; ``active``: only those of tokens under the loss mask."""
    if active:
        return chunk_end_pairs(student.active(kind), teacher.active(kind))
    return chunk_end_pairs(student.chunks[kind], teacher.chunks[kind])
