"""One row as two tokenizers see it: the door for people and for checks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from tokenkit.tokenizers.alignment.align import align_rows
from tokenkit.tokenizers.chat.template import Conversation
from tokenkit.tokenizers.encode import encode_rows
from tokenkit.tokenizers.pairs.bias import PairBias
from tokenkit.tokenizers.rows import Document, Reading, Row, joint_form, normalised
from tokenkit.tokenizers.tokenizer import ByteifiedTokenizer


@dataclass(frozen=True)
class AlignedSide:
    """One side of an aligned row.

    Attributes:
        ids: int32 ``[T]``.
        chunks: int32 ``[T]``; chunk k of one side belongs to chunk k of the other, −1 is none.
        loss_mask: bool ``[T]``, whether the prediction of the token counts.
        byte_ranges: int64 ``[T, 2]``, the bytes of ``data`` each token stands for (−1 if unknown).
        data: UTF-8 of what was encoded: the text, or the chat as this side's template writes it.
    """

    ids: np.ndarray
    chunks: np.ndarray
    loss_mask: np.ndarray
    byte_ranges: np.ndarray
    data: bytes

    def __repr__(self) -> str:
        return f"AlignedSide({len(self.ids)} tokens of {len(self.data)} bytes)"


@dataclass(frozen=True)
class AlignedPair:
    """Both sides of an aligned row."""

    teacher: AlignedSide
    student: AlignedSide

    def __repr__(self) -> str:
        chunks = self.teacher.chunks.max(initial=-1) + 1
        return f"AlignedPair(teacher={self.teacher}, student={self.student}, {chunks} chunks)"

    def _repr_svg_(self) -> str:
        """What notebooks show."""
        from tokenkit.tokenizers.picture import svg

        return svg(self)


def align_pair(
    teacher: ByteifiedTokenizer,
    student: ByteifiedTokenizer,
    text_or_messages: str | Sequence[Mapping[str, Any]] | Row,
    loss_on: str = "all",
    *,
    kind: str = "unconstrained",
    special_tokens: str = "text",
    pair_bias: PairBias | None = None,
    bias_threshold: float = 0.0,
) -> AlignedPair:
    """Encode a text or a chat with both tokenizers, as training does, and align.

    Args:
        text_or_messages: a text (which gets BOS and EOS), a chat's messages, or a row.
        loss_on: ``all``, ``assistant`` or ``completion``.
        kind: ``unconstrained``, ``space`` or ``unbiased``.
        special_tokens: what special tokens spelt out in contents are: ``text``, ``refuse``,
            ``parse``.

    Raises:
        DataError, TokenizerError: as :func:`tokenkit.tokenizers.encode.encode_rows`.
    """
    row = text_or_messages
    if isinstance(row, str):
        row = Document(row)
    elif not isinstance(row, Document | Conversation):
        row = Conversation(row)
    row = normalised(row, joint_form(teacher, student))
    reading = Reading(loss_on, special_tokens)
    encoded = [encode_rows(tok, [row], reading) for tok in (teacher, student)]
    theirs, mine = encoded
    found = align_rows(teacher, student, theirs, mine, (kind,), pair_bias, bias_threshold)
    chunks = found.teacher_chunks[kind], found.student_chunks[kind]
    counted = found.teacher_counted, found.student_counted
    sides = [
        AlignedSide(
            side[0].ids,
            chunks[k][0],
            counted[k][0],
            np.stack([side[0].begin, side[0].end], axis=1),
            side[0].data,
        )
        for k, side in enumerate(encoded)
    ]
    return AlignedPair(*sides)
