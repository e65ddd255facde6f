"""MinED (Wan et al., arXiv 2401.10491): teacher logits moved to the student's nearest tokens.

Where a chunk is one token on both sides, the student's next-token distribution is held against
the teacher's, each student token taking the logit of the teacher token with the least edit
distance. The student's tokens in all other chunks are learned as they are (one-hot). The loss is
the mean over both kinds. Tokens count as their successors do in the loss mask, as published.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor

from tokenkit.config import Config
from tokenkit.losses.base import Signals
from tokenkit.losses.kd import make_divergence
from tokenkit.losses.registry import LOSSES
from tokenkit.ops.segments import chunk_ends, segment_sum

if TYPE_CHECKING:
    from tokenkit.batch import Batch


@LOSSES.register("mined")
class MinED:
    """Divergence from mapped teacher logits, and from one-hot labels where nothing maps."""

    name = "mined"
    needs = frozenset({"hidden"})
    needs_teacher = True
    chunk_kind = "unconstrained"

    def __init__(
        self, config: Config, student_tok=None, teacher_tok=None, mapping: Tensor | None = None
    ) -> None:
        """``mapping`` ``[V_s]`` → teacher ids; read from ``mined.mapping`` unless given."""
        self.divergence = make_divergence(config)
        if mapping is None:
            from tokenkit.tokenizers.pairs.mined import load_mined_mapping

            mapping = torch.from_numpy(
                load_mined_mapping(config.mined.mapping, teacher_tok, student_tok)
            )
        self.mapping = mapping.long()

    def _active(self, batch: Batch, side: str) -> tuple[Tensor, Tensor]:
        """Chunk ids ``[B, T]`` of tokens whose successor counts; tokens per chunk ``[B, C]``."""
        following = F.pad(getattr(batch, f"{side}_loss_mask")[:, 1:], (0, 1), value=False)
        ids = torch.where(following, getattr(batch, f"{side}_chunks")["unconstrained"].long(), -1)
        size = batch.teacher_ids.shape[1]
        ones = torch.ones_like(ids[:, 1:], dtype=torch.float32)
        return ids, segment_sum(ones, ids[:, 1:], size)

    def _split(self, batch: Batch) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """One-to-one chunks ``[B, C]``, their ends on both sides, other tokens ``[B, T_s]``."""
        ids, tokens = self._active(batch, "student")
        teacher_ids, teacher_tokens = self._active(batch, "teacher")
        single = (tokens == 1) & (teacher_tokens == 1)
        size = single.shape[1]
        in_single = single.gather(1, ids.clamp(0, size - 1)) & (ids >= 0) & (ids < size)
        others = (ids >= 0) & ~in_single
        others[:, 0] = False
        return single, chunk_ends(ids, size)[0], chunk_ends(teacher_ids, size)[0], others

    def count(self, batch: Batch, teacher: Signals) -> Tensor:
        single, _, _, others = self._split(batch)
        return (single.sum() + others.sum()).float()

    def __call__(
        self, batch: Batch, student: Signals, teacher: Signals, count: Tensor
    ) -> tuple[Tensor, dict[str, Tensor]]:
        single, mine, theirs, others = self._split(batch)
        row = torch.arange(len(single), device=single.device)[:, None].expand_as(single)[single]
        mapping = self.mapping.to(single.device)

        def mapped(logits: Tensor, hidden: Tensor) -> Tensor:
            given = teacher.vocabulary.block_logits(hidden)[:, mapping]
            return self.divergence(logits[:, : given.shape[1]], given)

        def one_hot(logits: Tensor, labels: Tensor) -> Tensor:
            log_q = (logits / self.divergence.kd_temp).log_softmax(-1)
            return -self.divergence.scale * log_q.gather(1, labels[:, None]).squeeze(1)

        chunked_loss = student.vocabulary.chunked_loss
        from_teacher = chunked_loss(
            mapped, student.hidden[row, mine[single]], teacher.hidden[row, theirs[single]]
        )
        from_labels = chunked_loss(
            one_hot, student.hidden[:, :-1][others[:, 1:]], batch.student_ids[others]
        )
        metrics = {
            "mined/one_to_one": single.sum() / count,
            "mined/one_hot": others.sum() / count,
        }
        return (from_teacher + from_labels) / count, metrics
