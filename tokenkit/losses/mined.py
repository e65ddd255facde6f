"""MinED (Wan et al., arXiv 2401.10491): teacher logits moved to the student's nearest tokens.

Where a chunk is one token on both sides, the student's next-token distribution is held against
the teacher's, each student token taking the logit of the teacher token with the least edit
distance. The student's tokens in all other chunks are learned as they are (one-hot). The loss is
the mean over both kinds. Tokens count as their successors do in the loss mask, as published.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from tokenkit.batch import Sequences, following
from tokenkit.config import Config, key, to_toml
from tokenkit.losses.base import Loss
from tokenkit.losses.kd import make_divergence
from tokenkit.losses.pairs import Pairs
from tokenkit.losses.registry import LOSSES
from tokenkit.models.outputs import Outputs
from tokenkit.ops.segments import chunk_ends, segment_sum


@dataclass
class MinedSettings:
    """Minimal edit distance mapping, the loss mined."""

    mapping: str = key("", "file written by tokenkit compute-mined-mapping", path=True)


class Match(NamedTuple):
    """What is learned of the teacher, and what as it is."""

    single: Pairs  # ends of chunks of one token on both sides
    row: Tensor  # [N] the student's other tokens: their rows,
    place: Tensor  # [N] their places
    labels: Tensor  # [N] and what they are


@LOSSES.register("mined")
class MinED(Loss):
    """Divergence from mapped teacher logits, and from one-hot labels where nothing maps."""

    section, Settings = "mined", MinedSettings
    fixed_tokenizer = True

    @classmethod
    def problems(cls, config: Config) -> Iterator[str]:
        mapping = config.mined.mapping
        if not mapping:
            yield (
                'mined.mapping is empty, but loss "mined" reads the map of tokens from there: name '
                "a file written by tokenkit compute-mined-mapping"
            )
        elif not Path(mapping).expanduser().is_file():
            yield (
                f"mined.mapping = {to_toml(mapping)} does not exist: write it with "
                "tokenkit compute-mined-mapping"
            )

    needs = frozenset({"hidden"})
    streams = 1
    chunk_kind = "unconstrained"

    def __init__(
        self, config: Config, student_tok=None, teacher_tok=None, mapping: Tensor | None = None
    ) -> None:
        """``mapping`` ``[V_s]`` → teacher ids; read from ``mined.mapping`` unless given."""
        super().__init__(config)
        self.divergence = make_divergence(config)
        if mapping is None:
            from tokenkit.tokenizers.pairs.mined import load_mined_mapping

            mapping = torch.from_numpy(
                load_mined_mapping(config.mined.mapping, teacher_tok, student_tok)
            )
        self.mapping = mapping.long()

    def match(self, student: Sequences, teacher: Outputs) -> Match:
        size = teacher.seq.ids.shape[1]
        mine, theirs = (self._active(side) for side in (student, teacher.seq))
        tokens, teacher_tokens = (
            segment_sum(side.scored.float(), ids, size)
            for side, ids in ((student, mine), (teacher.seq, theirs))
        )
        single = (tokens == 1) & (teacher_tokens == 1)
        in_single = single.gather(1, mine.clamp(0, size - 1)) & (mine >= 0) & (mine < size)
        others = (mine >= 0) & ~in_single & student.scored
        row, chunk = single.nonzero(as_tuple=True)
        ends = (chunk_ends(ids, size)[0][row, chunk] for ids in (mine, theirs))
        other_row, place = others.nonzero(as_tuple=True)
        return Match(Pairs(row, *ends), other_row, place, student.ids[other_row, place])

    def _active(self, side: Sequences) -> Tensor:
        """Chunk ids ``[B, T]`` of tokens whose successor counts, −1 elsewhere."""
        chunks = side.chunks[self.chunk_kind].long()
        return torch.where(following(side.loss_mask, False), chunks, -1)

    def count(self, match: Match) -> Tensor:
        return match.single.number + float(len(match.place))

    def forward(
        self, match: Match, student: Outputs, teacher: Outputs, count: Tensor
    ) -> tuple[Tensor, dict[str, Tensor]]:
        row, mine, theirs = match.single
        mapping = self.mapping.to(row.device)

        def mapped(logits: Tensor, hidden: Tensor) -> Tensor:
            given = teacher.vocabulary.block_logits(hidden)[:, mapping]
            return self.divergence(logits[:, : given.shape[1]], given)

        def one_hot(logits: Tensor, labels: Tensor) -> Tensor:
            log_q = (logits / self.divergence.kd_temp).log_softmax(-1)
            return -self.divergence.scale * log_q.gather(1, labels[:, None]).squeeze(1)

        chunked_loss = student.vocabulary.chunked_loss
        from_teacher = chunked_loss(mapped, student.hidden[row, mine], teacher.hidden[row, theirs])
        from_labels = chunked_loss(
            one_hot, student.hidden[match.row, match.place - 1], match.labels
        )
        metrics = {
            "mined/one_to_one": match.single.number / count,
            "mined/one_hot": len(match.place) / count,
        }
        return (from_teacher + from_labels) / count, metrics
