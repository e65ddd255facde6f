"""Next-token cross-entropy on the student's own tokens."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from tokenkit.config import Config
from tokenkit.losses.base import Signals
from tokenkit.losses.registry import LOSSES

if TYPE_CHECKING:
    from tokenkit.batch import Batch


@LOSSES.register("sft")
class SFT:
    """Mean of −log p over the student's tokens under the loss mask (the first has no score)."""

    name = "sft"
    needs = frozenset({"label"})
    needs_teacher = False
    chunk_kind = None

    def __init__(self, config: Config, student_tok=None, teacher_tok=None) -> None:
        pass

    def count(self, batch: Batch, teacher: Signals | None) -> Tensor:
        return batch.student_loss_mask[:, 1:].sum(dtype=torch.float32)

    def __call__(
        self,
        batch: Batch,
        student: Signals,
        teacher: Signals | None,
        count: Tensor,
    ) -> tuple[Tensor, dict[str, Tensor]]:
        mask = batch.student_loss_mask[:, 1:]
        logprob = student.label_logprob[:, :-1].masked_fill(~mask, 0.0)
        metrics = {}
        if student.correct is not None:
            metrics["sft/accuracy"] = (student.correct[:, :-1] & mask).sum() / count
        return -logprob.sum() / count, metrics
