"""What a loss is: it counts first, over all ranks and micro-batches, and is then called."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from torch import Tensor

if TYPE_CHECKING:
    from tokenkit.data.batch import Batch


@dataclass
class SequenceScores:
    """Scores of a batch; position t holds the score of token t + 1. fp32."""

    label_logprob: Tensor  # [B, T]; the last column means nothing
    boundary_logprob: Tensor | None  # [B, T] log-prob that a boundary token follows position t


class Loss(Protocol):
    """One objective. ``LOSSES`` maps names to factories ``(config, student_tok, teacher_tok)``."""

    name: str
    needs_teacher: bool
    needs_boundary: bool
    chunk_kind: str | None  # which alignment of the batch it reads

    def count(self, batch: Batch, teacher: SequenceScores | None) -> Tensor:
        """This micro-batch's share of the denominator, 0-d fp32."""
        ...

    def __call__(
        self,
        batch: Batch,
        student: SequenceScores,
        teacher: SequenceScores | None,
        count: Tensor,
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """This micro-batch's share of the loss and of its metrics, both divided by ``count``.

        ``count`` is the global count (at least 1), so that shares add up to the loss of the
        whole batch.
        """
        ...
