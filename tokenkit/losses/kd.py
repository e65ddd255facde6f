"""Knowledge distillation on logits, for a teacher that shares the student's tokenizer.

The mean over predicted tokens of a divergence between the two next-token distributions (Hinton et
al., arXiv 1503.02531); see :mod:`tokenkit.losses.divergences`. Only positions where both sides have
read the same tokens are compared: from the first difference in a row on (another BOS, template or
conversion), the two distributions answer different questions.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from torch import Tensor

from tokenkit.batch import Sequences, previous
from tokenkit.config import Config, key
from tokenkit.errors import ConfigError
from tokenkit.losses.base import Loss
from tokenkit.losses.divergences import DIVERGENCES, Divergence
from tokenkit.losses.pairs import Pairs, at, flat
from tokenkit.losses.registry import LOSSES
from tokenkit.models.outputs import Outputs

if TYPE_CHECKING:
    from tokenkit.tokenizers import ByteifiedTokenizer


@dataclass
class KdSettings:
    """Divergences on logits: the losses kd and mined, and (but for the divergence) dskd."""

    divergence: str = key("kl", "divergence from teacher to student", choices=DIVERGENCES)
    temperature: float = key(2.0, "divides both sides' logits", above=0)
    teacher_temperature: float = key(1.0, "divides the teacher's logits once more", above=0)
    scale_by_temperature: bool = key(
        False, "multiply divergences by temperature², which keeps their gradients' size"
    )
    alpha: float = key(0.5, "of akl: probability mass of the teacher's tail", minimum=0, maximum=1)
    skew: float = key(0.1, "of skl and srkl: share of the own distribution", above=0, below=1)


# How rows may begin, for tokenizers that treat them differently.
BEGINNINGS = ("a", " a", "\na", "1")


def make_divergence(config: Config, name: str = "") -> Divergence:
    """The divergence ``name`` (default ``kd.divergence``) as the section ``[kd]`` sets it up."""
    kd = config.kd
    scale = kd.temperature**2 if kd.scale_by_temperature else 1.0
    name = name or kd.divergence
    return Divergence(name, kd.temperature, kd.teacher_temperature, kd.alpha, kd.skew, scale)


def first_tokens(tok: ByteifiedTokenizer, text_mode: str) -> list[str]:
    """The first tokens of some texts and of a conversation."""
    from tokenkit.tokenizers import Conversation, Document, encode_rows

    bos = "no_force_bos" not in text_mode
    rows: list = [Document(text, bos=bos) for text in BEGINNINGS]
    if tok.chat is not None:
        rows.append(Conversation([{"role": "user", "content": "a"}]))
    return [tok.tokens[row.ids[0]] for row in encode_rows(tok, rows)]


@dataclass(frozen=True)
class SamePrefix(Pairs):
    """Where both sides predict a token after having read the same ones."""

    left_out: Tensor  # [] tokens under the loss mask behind their row's first difference


def same_prefix(student: Sequences, teacher: Sequences) -> SamePrefix:
    """Of the tokens that count on both sides, those before their row's first difference."""
    widths = student.ids.shape[1], teacher.ids.shape[1]
    length = min(widths)
    predicted = student.counted[:, :length] & teacher.counted[:, :length]
    same = student.ids[:, :length] == teacher.ids[:, :length]
    on = predicted & previous(same, True).cumprod(1).bool()
    row, place = on.nonzero(as_tuple=True)
    mine, theirs = (flat(row, place - 1, width) for width in widths)
    return SamePrefix(mine, theirs, left_out=(predicted & ~on).sum())


@LOSSES.register("kd")
class KD(Loss):
    """Divergence of next-token distributions, token by token."""

    section, Settings = "kd", KdSettings
    fixed_tokenizer = True
    needs = frozenset({"hidden"})
    pair = staticmethod(same_prefix)
    streams = 1

    def __init__(self, config: Config, student_tok=None, teacher_tok=None) -> None:
        """Check that the two tokenizers, if given, can be compared.

        Raises:
            ConfigError: if the vocabularies differ, or every row begins with another token.
        """
        super().__init__(config)
        self.divergence = make_divergence(config)
        if student_tok is None:
            return
        if student_tok.tokens != teacher_tok.tokens:
            raise ConfigError(
                f"loss.names: 'kd' compares logits token by token, but student "
                f"('{student_tok.spec}') and teacher ('{teacher_tok.spec}') have different "
                "vocabularies; use an alm loss"
            )

        mine, theirs = (first_tokens(t, config.chat.text_mode) for t in (student_tok, teacher_tok))
        if all(a != b for a, b in zip(mine, theirs, strict=False)):
            raise ConfigError(
                "loss.names: 'kd' compares positions where both sides have read the same tokens, "
                f"but rows begin with {mine[0]!r} for the student ('{student_tok.spec}') and "
                f"{theirs[0]!r} for the teacher ('{teacher_tok.spec}'); give both one spec, or "
                "use an alm loss"
            )

    def match(self, student: Sequences, teacher: Outputs) -> SamePrefix:
        return self.paired(student, teacher.seq)

    def count(self, match: SamePrefix) -> Tensor:
        return match.number

    def forward(
        self, match: SamePrefix, student: Outputs, teacher: Outputs, count: Tensor
    ) -> tuple[Tensor, dict[str, Tensor]]:
        mine, theirs = at(student.hidden, match.student), at(teacher.hidden, match.teacher)

        def divergence(logits: Tensor, hidden: Tensor) -> Tensor:
            return self.divergence(logits, teacher.vocabulary.block_logits(hidden))

        metrics = {"kd/left_out": match.left_out / count}
        return student.vocabulary.chunked_loss(divergence, mine, theirs) / count, metrics
