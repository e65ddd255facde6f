"""Dual-space knowledge distillation with cross-model attention (arXiv 2406.17328).

Attention from the student's tokens to the teacher's (and back) brings each side's hidden states
to the other's positions and width. In the student's space, projected teacher states must predict
the student's labels, and the student follows them where they are right; in the teacher's space,
projected student states follow the teacher.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tokenkit.batch import Sequences, previous
from tokenkit.config import Config, key
from tokenkit.losses.base import Loss
from tokenkit.losses.divergences import DIVERGENCES
from tokenkit.losses.kd import make_divergence
from tokenkit.losses.pairs import Pairs, at
from tokenkit.losses.projection import linear
from tokenkit.losses.registry import LOSSES
from tokenkit.models.outputs import Outputs


@dataclass
class DskdSettings:
    """Dual-space distillation, the loss dskd; temperatures, alpha and skew are those of [kd]."""

    divergence: str = key(
        "srkl", "divergence from projected teacher to student", choices=DIVERGENCES
    )


class Projected(NamedTuple):
    """Each side's states in the other's space, at the tokens that they predict."""

    teacher: Tensor  # [B, T_s, D_s]
    student: Tensor  # [B, T_t, D_t]


class Match(NamedTuple):
    """Both sides, and where their tokens that count are (not paired, and not equally many)."""

    student: Sequences
    teacher: Outputs
    places: Pairs


def counted_places(student: Sequences, teacher: Sequences) -> Pairs:
    """Each side's tokens that count."""
    return Pairs(*(side.counted.flatten().nonzero().squeeze(1) for side in (student, teacher)))


@LOSSES.register("dskd")
class DSKD(Loss):
    """Cross-entropy and divergence in the student's space, forward KL in the teacher's."""

    section, Settings = "dskd", DskdSettings
    needs = frozenset({"embeddings", "hidden"})
    streams = 3
    counts_student = True
    pair = staticmethod(counted_places)

    def __init__(self, config: Config, student_tok=None, teacher_tok=None) -> None:
        super().__init__(config)
        self.divergence = make_divergence(config, config.dskd.divergence)
        self.to_teacher = replace(self.divergence, name="kl", teacher_temperature=1.0)

    def add_parameters(self, student_width: int, teacher_width: int) -> None:
        """Make the query projection and both value projections."""
        self.query = nn.Linear(2 * student_width, 2 * teacher_width)
        self.to_teacher_space = nn.Linear(student_width, teacher_width)
        self.to_student_space = nn.Linear(teacher_width, student_width)

    def match(self, student: Sequences, teacher: Outputs) -> Match:
        return Match(student, teacher, self.paired(student, teacher.seq))

    def count(self, match: Match) -> Tensor:
        """``[12]``: tokens that count on both sides, then the number, sum and sum of squares of
        the teacher's paired embeddings, own embeddings and hidden states (for their spread)."""
        student, teacher, _ = match
        on, now = teacher.seq.scored, teacher.embeddings
        counts = [student.counted.sum(), teacher.seq.counted.sum()]
        for states in (torch.cat([previous(now), now], -1), now, previous(teacher.hidden)):
            values = states.float() * on[..., None]
            counts += [on.sum() * states.shape[-1], values.sum(), values.square().sum()]
        counts.append(torch.zeros((), device=on.device))  # see student_count
        return torch.stack([count.float() for count in counts])

    @torch.no_grad()
    def student_count(
        self, match: Match, student: Outputs, teacher: Outputs, count: Tensor
    ) -> Tensor:
        """Positions where projected teacher states predict the label, at the place left for it."""
        projected = self._project(student, teacher, count)
        on = match.places.student
        states, labels = at(projected.teacher, on), at(student.seq.ids, on)
        right = student.vocabulary.chunked_loss(_is_right, states, labels)
        return F.pad(right.view(1), (len(count) - 1, 0))

    def forward(
        self, match: Match, student: Outputs, teacher: Outputs, count: Tensor
    ) -> tuple[Tensor, dict[str, Tensor]]:
        student_count, teacher_count, right_count = (count[k].clamp(min=1.0) for k in (0, 1, -1))
        projected = self._project(student, teacher, count)
        on, teacher_on = match.places.student, match.places.teacher
        states, labels = at(projected.teacher, on), at(student.seq.ids, on)
        chunked_loss = student.vocabulary.chunked_loss
        cross_entropy = chunked_loss(_cross_entropy, states, labels, train_matrix=False)

        def follow(logits: Tensor, hidden: Tensor, labels: Tensor) -> Tensor:
            given = student.vocabulary.block_logits(hidden)
            return self.divergence(logits, given) * _is_right(given, labels)

        in_student_space = chunked_loss(
            follow, at(previous(student.hidden), on), states.detach(), labels
        )

        def follow_teacher(logits: Tensor, hidden: Tensor) -> Tensor:
            return self.to_teacher(logits, teacher.vocabulary.block_logits(hidden))

        in_teacher_space = teacher.vocabulary.chunked_loss(
            follow_teacher,
            at(projected.student, teacher_on),
            at(previous(teacher.hidden), teacher_on),
            train_matrix=False,
        )
        parts = {
            "cross_entropy": cross_entropy / student_count,
            "student_space": in_student_space / right_count,
            "teacher_space": in_teacher_space / teacher_count,
        }
        metrics = {f"dskd/{name}": part.detach() for name, part in parts.items()}
        return sum(parts.values()), metrics

    def _project(self, student: Outputs, teacher: Outputs, count: Tensor) -> Projected:
        index_std, target_std, hidden_std = (_std(*count[k : k + 3]) for k in (2, 5, 8))
        s_embeds, t_embeds = student.embeddings.float(), teacher.embeddings.float()
        s_hidden, t_hidden = (previous(side.hidden).float() for side in (student, teacher))
        query = linear(self.query, torch.cat([previous(s_embeds), s_embeds], -1))
        key = torch.cat([previous(t_embeds), t_embeds], -1) / index_std
        values = t_hidden / hidden_std + t_embeds / target_std
        align = query @ key.mT / (2 * t_hidden.shape[-1]) ** 0.5
        both = student.seq.scored[:, :, None] & teacher.seq.scored[:, None, :]
        align = align.masked_fill(~both, torch.finfo(align.dtype).min)
        return Projected(
            align.softmax(-1) @ linear(self.to_student_space, values),
            align.mT.softmax(-1) @ linear(self.to_teacher_space, s_hidden),
        )


def _std(number: Tensor, total: Tensor, squares: Tensor) -> Tensor:
    """Standard deviation (of the population) from sums."""
    mean = total / number.clamp(min=1.0)
    return (squares / number.clamp(min=1.0) - mean.square()).clamp(min=1e-12).sqrt()


def _cross_entropy(logits: Tensor, labels: Tensor) -> Tensor:
    return F.cross_entropy(logits, labels, reduction="none")


def _is_right(logits: Tensor, labels: Tensor) -> Tensor:
    return (logits.argmax(-1) == labels).to(logits.dtype)
