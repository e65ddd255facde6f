"""Side path (arXiv 2503.20083, §3.3): compare next-token probabilities of tokens both sides have.

Where an aligned chunk ends, both sides predict what comes next. Tokens with the same bytes and a
small pair bias are the same event on both sides, so their probabilities can be compared directly.
``kl`` and ``reverse_kl`` add all other tokens as one more event; the ``_subset`` variants do not;
``abs`` and ``log_abs`` are means over pairs of the differences of probabilities and log-probs.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from tokenkit.batch import Sequences
from tokenkit.config import Config, key
from tokenkit.errors import ConfigError
from tokenkit.losses.base import Loss
from tokenkit.losses.pairs import Pairs, at, ends_of_chunks
from tokenkit.losses.registry import LOSSES
from tokenkit.models.outputs import Outputs

if TYPE_CHECKING:
    from tokenkit.tokenizers import ByteifiedTokenizer, PairBias

EPSILON = 1e-6


@dataclass
class SidePathSettings:
    """Probabilities of shared tokens after aligned chunks, the loss alm_side_path."""

    diff_fn: str = key(
        "kl",
        "how probabilities are compared",
        choices=("kl", "reverse_kl", "kl_subset", "reverse_kl_subset", "log_abs", "abs"),
    )
    bias_threshold: float = key(
        1e-3, "largest bias of a pair of tokens (with alm.pair_bias; else all pairs)", minimum=0
    )


def matched_pairs(
    student_tok: ByteifiedTokenizer,
    teacher_tok: ByteifiedTokenizer,
    pair_bias: PairBias | None,
    threshold: float,
) -> tuple[Tensor, Tensor]:
    """Ids ``[P]`` and ``[P]`` of tokens with the same bytes whose biases are small.

    Special tokens are left out: they mean the same only by role. Without ``pair_bias`` all pairs
    count.
    """
    pairs = [
        (i, teacher_tok.ids[token])
        for token, i in student_tok.ids.items()
        if token in teacher_tok.ids and student_tok.byte_lengths[i] > 0
        and teacher_tok.byte_lengths[teacher_tok.ids[token]] > 0
    ]  # fmt: skip
    mine, theirs = np.array(sorted(pairs), np.int64).reshape(-1, 2).T
    if pair_bias is not None:
        keep = pair_bias.is_unbiased(theirs, mine, threshold)
        mine, theirs = mine[keep], theirs[keep]
    return torch.from_numpy(mine.copy()), torch.from_numpy(theirs.copy())


def difference(kind: str, log_q: Tensor, log_p: Tensor) -> Tensor:
    """Distance ``[n]`` of the student's log-probs from the teacher's, ``[n, P]`` each."""
    q, p = log_q.exp(), log_p.exp()
    if kind == "abs":
        return (p - q).abs().mean(-1)
    if kind == "log_abs":
        return (log_p - log_q).abs().mean(-1)
    rest_q, rest_p = ((1.0 - x.sum(-1)).clamp(min=EPSILON) for x in (q, p))
    if kind.startswith("reverse_kl"):
        log_p, log_q, p = log_q, log_p, q
        rest_p, rest_q = rest_q, rest_p
    total = (p * (log_p - log_q)).sum(-1)
    if not kind.endswith("_subset"):
        total = total + rest_p * (rest_p.log() - rest_q.log())
    return total


@LOSSES.register("alm_side_path")
class SidePath(Loss):
    """Probabilities of shared tokens after aligned chunks."""

    section, Settings = "side_path", SidePathSettings
    fixed_tokenizer = True
    needs = frozenset({"hidden"})
    streams = 1
    chunk_kind = "unconstrained"

    def __init__(
        self, config: Config, student_tok=None, teacher_tok=None, pairs: tuple | None = None
    ) -> None:
        """Pairs are found from the tokenizers, or given (``[P]`` student's, teacher's ids).

        Raises:
            ConfigError: if no token is shared.
        """
        from tokenkit.tokenizers import load_pair_bias

        super().__init__(config)
        self.pair = partial(
            ends_of_chunks, kind=self.chunk_kind, active=True
        )  # under the loss mask
        self.kind = config.side_path.diff_fn
        if pairs is None:
            bias = load_pair_bias(config.alm.pair_bias)
            threshold = config.side_path.bias_threshold
            pairs = matched_pairs(student_tok, teacher_tok, bias, threshold)
        if not len(pairs[0]):
            raise ConfigError(
                "loss.names: 'alm_side_path' found no tokens that both vocabularies have with a "
                f"bias of at most side_path.bias_threshold = {config.side_path.bias_threshold}"
            )
        self.student_ids, self.teacher_ids = pairs

    def match(self, student: Sequences, teacher: Outputs) -> Pairs:
        return self.paired(student, teacher.seq)

    def count(self, match: Pairs) -> Tensor:
        return match.number

    def forward(
        self, match: Pairs, student: Outputs, teacher: Outputs, count: Tensor
    ) -> tuple[Tensor, dict[str, Tensor]]:
        student_ids, teacher_ids = self._shared(count.device)

        def distance(logits: Tensor, hidden: Tensor) -> Tensor:
            log_q = logits.log_softmax(-1)[:, student_ids]
            log_p = teacher.vocabulary.block_logits(hidden).log_softmax(-1)[:, teacher_ids]
            return difference(self.kind, log_q, log_p)

        total = student.vocabulary.chunked_loss(
            distance, at(student.hidden, match.student), at(teacher.hidden, match.teacher)
        )
        return total / count, {}

    def _shared(self, device: torch.device) -> tuple[Tensor, Tensor]:
        """Both sides' ids of the shared tokens; they are moved once."""
        self.student_ids, self.teacher_ids = (
            ids.to(device) for ids in (self.student_ids, self.teacher_ids)
        )
        return self.student_ids, self.teacher_ids
