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

import torch
from torch import Tensor

from tokenkit.batch import Sequences, following
from tokenkit.config import Config, key, to_toml
from tokenkit.losses.base import Loss
from tokenkit.losses.kd import make_divergence
from tokenkit.losses.pairs import Pairs, at, flat, how_many
from tokenkit.losses.registry import LOSSES
from tokenkit.models.outputs import Outputs
from tokenkit.ops.segments import chunk_ends, segment_sum


@dataclass
class MinedSettings:
    """Minimal edit distance mapping, the loss mined."""

    mapping: str = key("", "file written by tokenkit compute-mined-mapping", path=True)


KIND = "unconstrained"


@dataclass(frozen=True)
class OneToOne:
    """What is learned of the teacher, and what as it is."""

    single: Pairs  # ends of chunks of one token on both sides
    others: Tensor  # [N] where the student's other tokens are predicted,
    labels: Tensor  # [N] and what they are


def _active(side: Sequences) -> Tensor:
    """Chunk ids ``[B, T]`` of tokens whose successor counts, −1 elsewhere."""
    return torch.where(following(side.loss_mask, False), side.chunks[KIND].long(), -1)


def one_to_one(student: Sequences, teacher: Sequences) -> OneToOne:
    """Chunks of one token on both sides, and the tokens of all others."""
    width, size = student.ids.shape[1], teacher.ids.shape[1]
    mine, theirs = _active(student), _active(teacher)
    tokens, teacher_tokens = (
        segment_sum(side.scored.float(), ids, size)
        for side, ids in ((student, mine), (teacher, theirs))
    )
    single = (tokens == 1) & (teacher_tokens == 1)
    in_single = single.gather(1, mine.clamp(0, size - 1)) & (mine >= 0) & (mine < size)
    others = (mine >= 0) & ~in_single & student.scored
    row, chunk = single.nonzero(as_tuple=True)
    ends = (
        flat(row, chunk_ends(ids, size)[0][row, chunk], length)
        for ids, length in ((mine, width), (theirs, size))
    )
    other_row, place = others.nonzero(as_tuple=True)
    labels = student.ids[other_row, place]
    return OneToOne(Pairs(*ends), flat(other_row, place - 1, width), labels)


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
    chunk_kind = KIND
    pair = staticmethod(one_to_one)
    streams = 1

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

    def match(self, student: Sequences, teacher: Outputs) -> OneToOne:
        return self.paired(student, teacher.seq)

    def count(self, match: OneToOne) -> Tensor:
        return match.single.number + how_many(match.others)

    def forward(
        self, match: OneToOne, student: Outputs, teacher: Outputs, count: Tensor
    ) -> tuple[Tensor, dict[str, Tensor]]:
        single = match.single
        mapping = self.mapping = self.mapping.to(count.device)  # moved once

        def mapped(logits: Tensor, hidden: Tensor) -> Tensor:
            given = teacher.vocabulary.block_logits(hidden)[:, mapping]
            return self.divergence(logits[:, : given.shape[1]], given)

        def one_hot(logits: Tensor, labels: Tensor) -> Tensor:
            log_q = (logits / self.divergence.kd_temp).log_softmax(-1)
            return -self.divergence.scale * log_q.gather(1, labels[:, None]).squeeze(1)

        chunked_loss = student.vocabulary.chunked_loss
        from_teacher = chunked_loss(
            mapped, at(student.hidden, single.student), at(teacher.hidden, single.teacher)
        )
        from_labels = chunked_loss(one_hot, at(student.hidden, match.others), match.labels)
        metrics = {
            "mined/one_to_one": single.number / count,
            "mined/one_hot": how_many(match.others) / count,
        }
        return (from_teacher + from_labels) / count, metrics
