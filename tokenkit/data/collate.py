"""Marked texts → a batch: tokenized for student and teacher, aligned, padded."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from tokenkit.data.batch import Batch
from tokenkit.tokenizers import ByteifiedTokenizer, align, encode_batch_with_loss_mask

PAD_MULTIPLE = 8


def _pad(rows: list[np.ndarray], fill: int, dtype: type, max_length: int) -> np.ndarray:
    longest = max((len(row) for row in rows), default=0)
    length = min(max_length, max(PAD_MULTIPLE, -(-longest // PAD_MULTIPLE) * PAD_MULTIPLE))
    matrix = np.full((len(rows), max(length, longest)), fill, dtype=dtype)
    for number, row in enumerate(rows):
        matrix[number, : len(row)] = row
    return matrix


def _encode_side(
    tok: ByteifiedTokenizer, texts: list[str], loss_on: str, max_length: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Ids, mask of real tokens and loss mask, ``[B, T]`` each."""
    encoded = encode_batch_with_loss_mask(tok, texts, loss_on, max_length)
    ids = _pad([ids for ids, _ in encoded], tok.pad_id, np.int64, max_length)
    loss_mask = _pad([mask for _, mask in encoded], False, np.bool_, max_length)
    lengths = np.array([len(ids) for ids, _ in encoded])
    mask = np.arange(ids.shape[1]) < lengths[:, None]
    return ids, mask, loss_mask


@dataclass
class Collator:
    """Turns marked texts into a :class:`Batch`.

    Attributes:
        teacher_tok: None if no loss needs a teacher.
        kinds: alignments that losses read.
        pair_bias: for the "unbiased" alignment.
    """

    student_tok: ByteifiedTokenizer
    teacher_tok: ByteifiedTokenizer | None
    kinds: tuple[str, ...]
    loss_on: str
    max_student_length: int
    max_teacher_length: int
    pair_bias: Any = None
    bias_threshold: float = 0.0

    def __call__(self, texts: list[str]) -> Batch:
        ids, mask, loss_mask = _encode_side(
            self.student_tok, texts, self.loss_on, self.max_student_length
        )
        stats = {
            "rows": len(texts),
            "empty_rows": sum(not text for text in texts),
            "full_rows": int((mask.sum(1) == self.max_student_length).sum()),
            "student_tokens": int(mask.sum()),
        }
        batch = Batch(*(torch.from_numpy(array) for array in (ids, mask, loss_mask)), stats=stats)
        if self.teacher_tok is None:
            return batch
        t_ids, t_mask, t_loss_mask = _encode_side(
            self.teacher_tok, texts, self.loss_on, self.max_teacher_length
        )
        found = align(
            self.teacher_tok, self.student_tok, t_ids, ids, t_mask, mask,
            kinds=self.kinds, pair_bias=self.pair_bias, bias_threshold=self.bias_threshold,
        )  # fmt: skip
        batch.teacher_ids, batch.teacher_mask, batch.teacher_loss_mask = (
            torch.from_numpy(array) for array in (t_ids, t_mask, t_loss_mask)
        )
        batch.student_chunks = {k: torch.from_numpy(v) for k, v in found.student_chunks.items()}
        batch.teacher_chunks = {k: torch.from_numpy(v) for k, v in found.teacher_chunks.items()}
        batch.stats = {**stats, **found.stats}
        return batch
