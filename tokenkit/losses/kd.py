"""Knowledge distillation on logits, for a teacher that shares the student's tokenizer.

The mean over predicted tokens of a divergence between the two next-token distributions (Hinton et
al., arXiv 1503.02531); see :mod:`tokenkit.losses.divergences`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from tokenkit.config import Config
from tokenkit.errors import ConfigError
from tokenkit.losses.base import Signals
from tokenkit.losses.divergences import Divergence
from tokenkit.losses.registry import LOSSES

if TYPE_CHECKING:
    from tokenkit.data.batch import Batch


def make_divergence(config: Config) -> Divergence:
    kd = config.kd
    return Divergence(kd.divergence, kd.temperature, kd.teacher_temperature, kd.alpha, kd.skew)


@LOSSES.register("kd")
class KD:
    """Divergence of next-token distributions, token by token."""

    name = "kd"
    needs = frozenset({"hidden"})
    needs_teacher = True
    chunk_kind = None

    def __init__(self, config: Config, student_tok=None, teacher_tok=None) -> None:
        self.divergence = make_divergence(config)
        if student_tok is not None and student_tok.tokens != teacher_tok.tokens:
            raise ConfigError(
                f"loss.names: 'kd' compares logits token by token, but student "
                f"('{student_tok.spec}') and teacher ('{teacher_tok.spec}') have different "
                "vocabularies; use an alm loss"
            )

    @staticmethod
    def _on(batch: Batch) -> Tensor:
        """Positions ``[B, T]`` whose next token both sides predict under the loss mask."""
        length = min(batch.student_ids.shape[1], batch.teacher_ids.shape[1])
        student, teacher = batch.student_loss_mask, batch.teacher_loss_mask
        return student[:, 1:length] & teacher[:, 1:length]

    def count(self, batch: Batch, teacher: Signals) -> Tensor:
        return self._on(batch).sum(dtype=torch.float32)

    def __call__(
        self, batch: Batch, student: Signals, teacher: Signals, count: Tensor
    ) -> tuple[Tensor, dict[str, Tensor]]:
        on = self._on(batch)
        mine, theirs = (side.hidden[:, : on.shape[1]][on] for side in (student, teacher))

        def divergence(logits: Tensor, hidden: Tensor) -> Tensor:
            given = teacher.vocabulary.block_logits(hidden)
            width = min(logits.shape[1], given.shape[1])  # either matrix may have spare rows
            return self.divergence(logits[:, :width], given[:, :width])

        return student.vocabulary.stream(divergence, mine, theirs) / count, {}
