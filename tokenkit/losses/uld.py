"""Universal Logit Distillation (arXiv 2402.12030): equal sorted probabilities.

Σ_v |sort(p_student) − sort(p_teacher)|, the shorter one padded with zeros, averaged over the
student's positions. As published, position t of the student meets position t of the teacher; with
``uld.aligned`` positions are paired where aligned chunks end.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

import torch.nn.functional as F
from torch import Tensor

from tokenkit.batch import Sequences
from tokenkit.config import Config, key
from tokenkit.losses.base import Loss
from tokenkit.losses.pairs import Pairs, at, ends_of_chunks, flat
from tokenkit.losses.registry import LOSSES
from tokenkit.models.outputs import Outputs


@dataclass
class UldSettings:
    """Universal logit distillation, the loss uld."""

    aligned: bool = key(False, "pair positions where aligned chunks end (published: by number)")


def sorted_distance(student: Tensor, teacher: Tensor) -> Tensor:
    """L1 distance ``[n]`` of the sorted probabilities of logits ``[n, V_s]`` and ``[n, V_t]``."""
    a, b = (x.softmax(-1).sort(-1, descending=True).values for x in (student, teacher))
    width = max(a.shape[-1], b.shape[-1])
    a, b = (F.pad(x, (0, width - x.shape[-1])) for x in (a, b))
    return (a - b).abs().sum(-1)


def same_places(student: Sequences, teacher: Sequences) -> Pairs:
    """Position t of the student with position t of the teacher."""
    widths = student.ids.shape[1], teacher.ids.shape[1]
    length = min(widths)
    row, place = (student.mask[:, :length] & teacher.mask[:, :length]).nonzero(as_tuple=True)
    return Pairs(*(flat(row, place, width) for width in widths))


@LOSSES.register("uld")
class ULD(Loss):
    """Distance of sorted distributions, position by position."""

    section, Settings = "uld", UldSettings
    needs = frozenset({"hidden"})
    streams = 1

    def __init__(self, config: Config, student_tok=None, teacher_tok=None) -> None:
        super().__init__(config)
        self.pair = same_places
        if config.uld.aligned:
            self.chunk_kind = "unconstrained"
            self.pair = partial(ends_of_chunks, kind=self.chunk_kind, active=False)

    def match(self, student: Sequences, teacher: Outputs) -> Pairs:
        return self.paired(student, teacher.seq)

    def count(self, match: Pairs) -> Tensor:
        return match.number

    def forward(
        self, match: Pairs, student: Outputs, teacher: Outputs, count: Tensor
    ) -> tuple[Tensor, dict[str, Tensor]]:
        total = student.vocabulary.chunked_loss(
            lambda logits, hidden: sorted_distance(logits, teacher.vocabulary.block_logits(hidden)),
            at(student.hidden, match.student),
            at(teacher.hidden, match.teacher),
        )
        return total / count, {}
