"""The teacher is a source of scores; the training step cannot tell one kind from another."""

from __future__ import annotations

from typing import Protocol

import torch
from torch import Tensor

from tokenkit.data import Batch
from tokenkit.losses.base import SequenceScores
from tokenkit.models.causal_lm import CausalLM
from tokenkit.models.lora import adapters_off
from tokenkit.models.vocabulary import Vocabulary


class TeacherSource(Protocol):
    """Anything that can score the teacher's side of a batch."""

    vocabulary_rows: int  # V_t, the length its boundary mask must have

    def scores(self, batch: Batch, boundary_mask: Tensor | None) -> SequenceScores:
        """Label and boundary log-probs ``[B, T_t]``, without gradient."""
        ...


class LiveTeacher:
    """A frozen model of its own: a separate teacher, or a copy of the student as it started."""

    def __init__(self, model: CausalLM) -> None:
        self.model = model.requires_grad_(False)
        self.vocabulary_rows = model.vocabulary.input.shape[0]

    @torch.no_grad()
    def scores(self, batch: Batch, boundary_mask: Tensor | None) -> SequenceScores:
        output = self.model(batch.teacher_ids, batch.teacher_mask, boundary_mask)
        return SequenceScores(output.scores.label_logprob, output.scores.boundary_logprob)


class SelfTeacher:
    """The student with its adapters off and the source vocabulary: one copy of the weights.

    Right when the backbone's base weights are frozen (``student.train`` = lora or none).
    """

    def __init__(self, student: CausalLM, source_vocabulary: Vocabulary) -> None:
        self.student = student
        self.vocabulary = source_vocabulary.requires_grad_(False)
        self.vocabulary_rows = source_vocabulary.input.shape[0]

    @torch.no_grad()
    def scores(self, batch: Batch, boundary_mask: Tensor | None) -> SequenceScores:
        with adapters_off(self.student.backbone):
            output = self.student(
                batch.teacher_ids, batch.teacher_mask, boundary_mask, vocabulary=self.vocabulary
            )
        return SequenceScores(output.scores.label_logprob, output.scores.boundary_logprob)
