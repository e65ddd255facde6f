"""Universal Logit Distillation (arXiv 2402.12030): equal sorted probabilities.

Σ_v |sort(p_student) − sort(p_teacher)|, the shorter one padded with zeros, averaged over the
student's positions. As published, position t of the student meets position t of the teacher; with
``uld.aligned`` positions are paired where aligned chunks end.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor

from tokenkit.config import Config
from tokenkit.losses.base import Signals
from tokenkit.losses.registry import LOSSES
from tokenkit.ops.segments import chunk_ends

if TYPE_CHECKING:
    from tokenkit.batch import Batch


def sorted_distance(student: Tensor, teacher: Tensor) -> Tensor:
    """L1 distance ``[n]`` of the sorted probabilities of logits ``[n, V_s]`` and ``[n, V_t]``."""
    a, b = (x.softmax(-1).sort(-1, descending=True).values for x in (student, teacher))
    width = max(a.shape[-1], b.shape[-1])
    a, b = (F.pad(x, (0, width - x.shape[-1])) for x in (a, b))
    return (a - b).abs().sum(-1)


@LOSSES.register("uld")
class ULD:
    """Distance of sorted distributions, position by position."""

    name = "uld"
    needs = frozenset({"hidden"})
    needs_teacher = True

    def __init__(self, config: Config, student_tok=None, teacher_tok=None) -> None:
        self.aligned = config.uld.aligned
        self.chunk_kind = "unconstrained" if self.aligned else None

    def _pairs(self, batch: Batch) -> tuple[Tensor, Tensor, Tensor]:
        """Student's and teacher's positions, and which pairs count, ``[B, P]`` each."""
        if self.aligned:
            size = batch.teacher_ids.shape[1]
            student, in_student = chunk_ends(batch.student_chunks["unconstrained"], size)
            teacher, in_teacher = chunk_ends(batch.teacher_chunks["unconstrained"], size)
            return student, teacher, in_student & in_teacher
        length = min(batch.student_ids.shape[1], batch.teacher_ids.shape[1])
        position = torch.arange(length, device=batch.student_ids.device)
        position = position.expand(len(batch.student_ids), -1)
        both = batch.student_mask[:, :length] & batch.teacher_mask[:, :length]
        return position, position, both

    def count(self, batch: Batch, teacher: Signals) -> Tensor:
        return self._pairs(batch)[2].sum(dtype=torch.float32)

    def __call__(
        self, batch: Batch, student: Signals, teacher: Signals, count: Tensor
    ) -> tuple[Tensor, dict[str, Tensor]]:
        mine, theirs, on = self._pairs(batch)
        row = torch.arange(len(on), device=on.device)[:, None].expand_as(on)[on]
        total = student.vocabulary.chunked_loss(
            lambda logits, hidden: sorted_distance(logits, teacher.vocabulary.block_logits(hidden)),
            student.hidden[row, mine[on]],
            teacher.hidden[row, theirs[on]],
        )
        return total / count, {}
