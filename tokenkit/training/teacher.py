"""The teacher is a source of signals; the training step cannot tell one kind from another."""

from __future__ import annotations

from collections.abc import Collection
from typing import Protocol

import torch
from torch import Tensor

from tokenkit.batch import Batch
from tokenkit.losses.base import Signals
from tokenkit.models.causal_lm import CausalLM, Output
from tokenkit.models.lora import adapters_off
from tokenkit.models.vocabulary.table import Vocabulary


class TeacherSource(Protocol):
    """Anything that can read the teacher's side of a batch."""

    vocabulary_rows: int  # V_t, the length its boundary mask must have

    def signals(
        self, batch: Batch, boundary_mask: Tensor | None, needs: Collection[str]
    ) -> Signals:
        """What ``needs`` names, without gradient."""
        ...


def select_signals(output: Output, vocabulary: Vocabulary, needs: Collection[str]) -> Signals:
    """Keep of a forward pass what is needed."""
    scores = output.scores
    return Signals(
        label_logprob=None if scores is None else scores.label_logprob,
        boundary_logprob=None if scores is None else scores.boundary_logprob,
        correct=None if scores is None else scores.correct,
        embeddings=output.embeddings,
        hidden=output.hidden if "hidden" in needs else None,
        hidden_states=output.hidden_states,
        qkv=output.qkv,
        vocabulary=vocabulary,
    )


class LiveTeacher:
    """A frozen model of its own: a separate teacher, or a copy of the student as it started."""

    def __init__(self, model: CausalLM) -> None:
        self.model = model.requires_grad_(False)
        self.vocabulary_rows = model.vocabulary.rows

    @torch.no_grad()
    def signals(
        self, batch: Batch, boundary_mask: Tensor | None, needs: Collection[str]
    ) -> Signals:
        output = self.model(batch.teacher_ids, batch.teacher_mask, boundary_mask, needs=needs)
        return select_signals(output, self.model.vocabulary, needs)


class SelfTeacher:
    """The student with its adapters off and the source vocabulary: one copy of the weights.

    Right when the backbone's base weights are frozen (``student.train`` = lora or none).
    """

    def __init__(self, student: CausalLM, source_vocabulary: Vocabulary) -> None:
        self.student = student
        self.vocabulary = source_vocabulary.requires_grad_(False)
        self.vocabulary_rows = source_vocabulary.rows

    @torch.no_grad()
    def signals(
        self, batch: Batch, boundary_mask: Tensor | None, needs: Collection[str]
    ) -> Signals:
        with adapters_off(self.student.backbone):
            output = self.student(
                batch.teacher_ids,
                batch.teacher_mask,
                boundary_mask,
                vocabulary=self.vocabulary,
                needs=needs,
            )
        return select_signals(output, self.vocabulary, needs)
