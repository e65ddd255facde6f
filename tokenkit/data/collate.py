"""Marked texts → a batch: tokenized for student and teacher, aligned, padded."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from tokenkit.data.batch import Batch
from tokenkit.tokenizers import ByteifiedTokenizer, align, encode_batch_with_loss_mask

PAD_MULTIPLE = 8


def _pad(rows: list[np.ndarray], fill: int, dtype: type, max_length: int) -> np.ndarray:
    """Rows of at most ``max_length`` as a matrix, a multiple of eight (or that limit) wide."""
    longest = max((len(row) for row in rows), default=0)
    length = min(max_length, max(1, -(-longest // PAD_MULTIPLE)) * PAD_MULTIPLE)
    matrix = np.full((len(rows), length), fill, dtype=dtype)
    for number, row in enumerate(rows):
        matrix[number, : len(row)] = row
    return matrix


@dataclass
class _Side:
    """One tokenizer's view of B texts."""

    ids: np.ndarray  # [B, T] int64
    mask: np.ndarray  # [B, T] bool, True on real tokens
    loss_mask: np.ndarray  # [B, T] bool
    truncated: np.ndarray  # [B] bool

    def tensors(self) -> tuple[Tensor, Tensor, Tensor]:
        return tuple(torch.from_numpy(a) for a in (self.ids, self.mask, self.loss_mask))


def _encode_side(tok: ByteifiedTokenizer, texts: list[str], loss_on: str, max_length: int) -> _Side:
    # One token more than wanted tells a text that fits exactly from one that is cut.
    encoded = encode_batch_with_loss_mask(tok, texts, loss_on, max_length + 1)
    lengths = np.array([len(ids) for ids, _ in encoded], dtype=np.int64)
    ids = _pad([ids[:max_length] for ids, _ in encoded], tok.pad_id, np.int64, max_length)
    loss_mask = _pad([mask[:max_length] for _, mask in encoded], False, np.bool_, max_length)
    mask = np.arange(ids.shape[1]) < lengths[:, None]
    return _Side(ids, mask, loss_mask, lengths > max_length)


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
        """Encode, align and pad.

        The batch's ``stats`` count rows, ``truncated_rows`` (cut on either side), tokens and what
        the alignment counts. A row of fewer than two tokens is fine: it has nothing to predict.
        """
        student = _encode_side(self.student_tok, texts, self.loss_on, self.max_student_length)
        truncated = student.truncated
        stats = {"rows": len(texts), "student_tokens": int(student.mask.sum())}
        batch = Batch(*student.tensors())
        if self.teacher_tok is not None:
            teacher = _encode_side(self.teacher_tok, texts, self.loss_on, self.max_teacher_length)
            truncated = truncated | teacher.truncated
            batch = Batch(*student.tensors(), *teacher.tensors())
            stats |= self._align(batch, teacher, student)
        batch.stats = {**stats, "truncated_rows": int(truncated.sum())}
        return batch

    def _align(self, batch: Batch, teacher: _Side, student: _Side) -> dict[str, int]:
        """Add the chunk ids; returns the alignment's counts."""
        found = align(
            self.teacher_tok, self.student_tok, teacher.ids, student.ids, teacher.mask,
            student.mask, kinds=self.kinds, pair_bias=self.pair_bias,
            bias_threshold=self.bias_threshold,
        )  # fmt: skip
        batch.student_chunks = {k: torch.from_numpy(v) for k, v in found.student_chunks.items()}
        batch.teacher_chunks = {k: torch.from_numpy(v) for k, v in found.teacher_chunks.items()}
        return found.stats


@dataclass
class PlainCollator:
    """A collator that treats all optimizer steps alike."""

    collator: Collator

    def __call__(self, texts: list[str], step: int) -> Batch:
        return self.collator(texts)
