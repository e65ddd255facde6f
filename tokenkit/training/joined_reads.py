"""One pass of the teacher over several micro-batches: it needs no memory for a backward pass."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor

from tokenkit.batch import Sequences
from tokenkit.models.outputs import Outputs

if TYPE_CHECKING:
    from tokenkit.training.teacher import Teacher


def read_joined(
    teacher: Teacher, parts: Sequence[Sequences], needs: Collection[str], at_once: int
) -> list[Outputs]:
    """What a teacher says of each micro-batch, read up to ``at_once`` of them in one pass."""
    if at_once <= 1:
        return [teacher.read(part, needs) for part in parts]
    found = []
    for first in range(0, len(parts), at_once):
        group = parts[first : first + at_once]
        found += _apart(teacher.read(joined(group), needs), group)
    return found


def joined(parts: Sequence[Sequences]) -> Sequences:
    """The rows of all parts, padded to the longest; without chunks, which no model reads."""
    length = max(part.ids.shape[1] for part in parts)

    def rows(tensors: Sequence[Tensor]) -> Tensor:
        return torch.cat([F.pad(t, (0, length - t.shape[1])) for t in tensors])

    index, first = [], 0
    for part in parts:
        size = part.ids.shape[1]
        row = torch.div(part.real_index, size, rounding_mode="floor")
        index.append((first + row) * length + part.real_index % size)
        first += len(part.ids)
    first_part = parts[0]
    return Sequences(
        rows([part.ids for part in parts]),
        rows([part.mask for part in parts]),
        rows([part.loss_mask for part in parts]),
        rows([part.scored for part in parts]),
        torch.cat(index),
        positions=None
        if first_part.positions is None
        else rows([part.positions for part in parts if part.positions is not None]),
        subwords=None
        if first_part.subwords is None
        else rows([part.subwords for part in parts if part.subwords is not None]),
    )


def _apart(outputs: Outputs, parts: Sequence[Sequences]) -> list[Outputs]:
    """Each part's rows and places of what was said of all."""
    found, first = [], 0
    for part in parts:
        rows, length = part.ids.shape

        def own(states: Tensor | None) -> Tensor | None:
            return None if states is None else states[first : first + rows, :length]  # noqa: B023

        found.append(
            outputs._replace(
                seq=part,
                token_logprob=own(outputs.token_logprob),
                boundary_logprob=own(outputs.boundary_logprob),
                correct=own(outputs.correct),
                scores=None,
                embeddings=own(outputs.embeddings),
                hidden=own(outputs.hidden),
                hidden_states=tuple(map(own, outputs.hidden_states)),
                qkv=tuple(map(own, outputs.qkv)),
            )
        )
        first += rows
    return found
