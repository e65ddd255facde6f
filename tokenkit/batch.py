"""What one forward pass of teacher and student reads."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from torch import Tensor

from tokenkit.tokenizers.sampling.token_forms import TokenForms


@dataclass
class Batch:
    """B texts in both tokenizations, padded on the right.

    Attributes:
        student_ids: ``[B, T_s]`` int64.
        student_mask: ``[B, T_s]`` bool, True on real tokens.
        student_loss_mask: ``[B, T_s]`` bool, True on tokens whose prediction counts.
        teacher_ids, teacher_mask, teacher_loss_mask: ``[B, T_t]``; None without a teacher.
        student_chunks: kind of alignment → ``[B, T_s]`` int32 chunk ids, −1 for none.
        teacher_chunks: the same for ``[B, T_t]``.
        tokens: the student's vocabulary, where it changes from step to step.
        stats: counts that may be added up over batches (tokens, aligned tokens, …).
    """

    student_ids: Tensor
    student_mask: Tensor
    student_loss_mask: Tensor
    teacher_ids: Tensor | None = None
    teacher_mask: Tensor | None = None
    teacher_loss_mask: Tensor | None = None
    student_chunks: dict[str, Tensor] = field(default_factory=dict)
    teacher_chunks: dict[str, Tensor] = field(default_factory=dict)
    tokens: TokenForms | None = None
    stats: dict[str, int] = field(default_factory=dict)

    def _map(self, function: Callable[[Tensor], Tensor]) -> Batch:
        def apply(value):
            if isinstance(value, Tensor):
                return function(value)
            if isinstance(value, dict):
                return {key: apply(item) for key, item in value.items()}
            if isinstance(value, TokenForms):
                return value.map(function)
            return value

        values = {f.name: apply(getattr(self, f.name)) for f in dataclasses.fields(self)}
        return Batch(**values)

    def to(self, device: torch.device) -> Batch:
        """A copy on ``device`` (without waiting, from pinned memory)."""
        return self._map(lambda tensor: tensor.to(device, non_blocking=True))

    def pin_memory(self) -> Batch:
        """A copy in pinned memory; called by the data loader."""
        return self._map(lambda tensor: tensor.pin_memory())
