"""Next-token cross-entropy on the student's own tokens."""

from __future__ import annotations

import torch
from torch import Tensor

from tokenkit.batch import Sequences
from tokenkit.losses.base import Loss
from tokenkit.losses.registry import LOSSES
from tokenkit.models.outputs import Outputs


@LOSSES.register("sft")
class SFT(Loss):
    """Mean of −log p over the student's tokens under the loss mask (the first has no score)."""

    needs = frozenset({"label"})
    needs_teacher = False

    def match(self, student: Sequences, teacher: Outputs | None) -> Tensor:
        """The tokens that count, ``[B, T]`` bool."""
        return student.counted

    def count(self, match: Tensor) -> Tensor:
        return match.sum(dtype=torch.float32)

    def forward(
        self, match: Tensor, student: Outputs, teacher: Outputs | None, count: Tensor
    ) -> tuple[Tensor, dict[str, Tensor]]:
        logprob = student.token_logprob.masked_fill(~match, 0.0)
        metrics = {}
        if student.correct is not None:
            metrics["sft/accuracy"] = (student.correct & match).sum() / count
        return -logprob.sum() / count, metrics
