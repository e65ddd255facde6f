"""Rows → a batch: tokenized for student and teacher, aligned, padded."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from tokenkit.batch import Batch, Sequences
from tokenkit.errors import DataError
from tokenkit.tokenizers import (
    Alignment,
    ByteifiedTokenizer,
    Document,
    EncodedRow,
    InputExpander,
    Reading,
    Row,
    align_rows,
    encode_rows,
    joint_form,
    normalised,
)
from tokenkit.tokenizers.sampling.token_forms import TokenForms

SHORT = 0.9  # a student that reads less than this of what its teacher reads is cut too early
TEACHER = "teacher"  # name of the only one


def _pad(rows: list[np.ndarray], fill: int, dtype: type, length: int) -> Tensor:
    matrix: np.ndarray = np.full((len(rows), length), fill, dtype=dtype)
    for number, row in enumerate(rows):
        matrix[number, : len(row)] = row
    return torch.from_numpy(matrix)


@dataclass
class _Side:
    """One tokenizer's view of B rows, cut to length."""

    tok: ByteifiedTokenizer
    rows: list[EncodedRow]
    truncated: np.ndarray  # [B] bool
    max_length: int
    multiple: int  # of which the width is, unless it is the limit

    @classmethod
    def encode(
        cls,
        tok: ByteifiedTokenizer,
        rows: Sequence[Row],
        reading: Reading,
        max_length: int,
        multiple: int,
    ) -> _Side:
        encoded = encode_rows(tok, rows, reading, max_length)
        truncated = np.array([len(row.ids) > max_length for row in encoded], bool)
        return cls(tok, [row.cut(max_length) for row in encoded], truncated, max_length, multiple)

    @property
    def width(self) -> int:
        """The longest row, rounded up."""
        longest = max((len(row.ids) for row in self.rows), default=0)
        return min(self.max_length, max(1, -(-longest // self.multiple)) * self.multiple)

    @property
    def read(self) -> np.ndarray:
        """float ``[B]``, the share of each row's bytes that is read."""
        reached = [int(row.end.max(initial=0)) / max(1, len(row.data)) for row in self.rows]
        return np.array(reached)

    @property
    def tokens(self) -> int:
        return sum(len(row.ids) for row in self.rows)

    def sequences(
        self,
        counted: list[np.ndarray],
        chunks: dict[str, list[np.ndarray]],
        expander: InputExpander | None = None,
    ) -> Sequences:
        """As tensors; ``counted`` and ``chunks`` are rows of ``[T]``."""
        width = self.width
        ids = _pad([row.ids for row in self.rows], self.tok.pad_id, np.int64, width)
        lengths = torch.tensor([len(row.ids) for row in self.rows])
        mask = torch.arange(width) < lengths[:, None]
        padded = {kind: _pad(rows, -1, np.int32, width) for kind, rows in chunks.items()}
        seq = Sequences.of(ids, mask, _pad(counted, False, np.bool_, width), padded)
        if expander is not None:
            found = expander.expand(ids.numpy(), mask.numpy())
            seq.subwords = torch.from_numpy(found).long()
        return seq


class KnownScores(Protocol):
    """What a teacher said of rows, kept on disk."""

    def look_up(
        self, keys: Sequence[int], rows: Sequence[np.ndarray], width: int
    ) -> dict[str, Tensor]:
        """Log-probs ``[B, width]`` of B rows of token ids.

        Raises:
            TokenkitError: if a row is not there, or not the same.
        """
        ...


@dataclass
class Collator:
    """Turns rows into a :class:`Batch`.

    Attributes:
        teacher_tok: None if no loss needs a teacher.
        kinds: alignments that losses read.
        reading: what the loss counts, and what special tokens spelt out in a row are.
        pair_bias: for the "unbiased" alignment.
        expander: of the student's ids; None: they are all it reads.
        skip_bad: a row that cannot be encoded is nothing, and counted.
        pairings: by loss, what it pairs of both sides.
        pad_multiple: widths of batches are multiples of it, or the limit.
        known: of the teacher; None: it is asked in the step.
        form: Unicode form of the texts; None: that in which both tokenizers see them alike.
    """

    student_tok: ByteifiedTokenizer
    teacher_tok: ByteifiedTokenizer | None
    kinds: tuple[str, ...]
    reading: Reading
    max_student_length: int
    max_teacher_length: int
    pair_bias: Any = None
    bias_threshold: float = 0.0
    expander: InputExpander | None = None
    skip_bad: bool = False
    pairings: Mapping[str, Callable[[Sequences, Sequences], Any]] = field(default_factory=dict)
    pad_multiple: int = 8
    known: KnownScores | None = None
    form: str | None = None

    def __call__(self, rows: Sequence[Row]) -> Batch:
        """Encode, align and pad.

        The batch's ``stats`` count rows, ``truncated_rows`` (cut on either side), ``short_rows``
        (cut on the student's side where the teacher reads on), ``bad_rows``, tokens, places (tokens
        and padding) and what the alignment counts. A row of fewer than two tokens is fine: it has
        nothing to predict.

        Raises:
            DataError: if a row cannot be encoded, unless such rows are skipped; the message begins
                with its file and line.
        """
        try:
            return self._collate(rows)
        except DataError:
            if not self.skip_bad:
                raise
        good = [self._is_good(row) for row in rows]
        nothing = Document("", bos=False, eos=False)
        pairs = zip(rows, good, strict=True)
        batch = self._collate([row if is_good else nothing for row, is_good in pairs])
        batch.stats["bad_rows"] = good.count(False)
        return batch

    def look(self, row: Row) -> None:
        """Refuse a row that could not be collated; texts without reason to are not encoded.

        Raises:
            DataError: beginning with its file and line.
        """
        if not isinstance(row, Document) or self.reading.spelt == "refuse":
            self._collate([row])

    def _is_good(self, row: Row) -> bool:
        try:
            self._collate([row])
        except DataError:
            return False
        return True

    def _collate(self, rows: Sequence[Row]) -> Batch:
        toks = [tok for tok in (self.student_tok, self.teacher_tok) if tok is not None]
        form = joint_form(*toks) if self.form is None else self.form
        rows = [normalised(row, form) for row in rows]
        lengths = (self.max_student_length, self.max_teacher_length)
        sides = [
            _Side.encode(tok, rows, self.reading, length, self.pad_multiple)
            for tok, length in zip(toks, lengths, strict=False)
        ]
        stats = {"rows": len(rows), "student_tokens": sides[0].tokens}
        truncated = np.logical_or.reduce([side.truncated for side in sides])
        short = sides[0].truncated & (sides[0].read < SHORT * sides[-1].read)
        names = ("student", "teacher")
        stats |= {
            f"{name}_places": len(rows) * side.width
            for name, side in zip(names, sides, strict=False)
        }
        if self.teacher_tok is None:
            counted = [row.counted for row in sides[0].rows]
            student, teacher = sides[0].sequences(counted, {}, self.expander), None
        else:
            found = self._align(*sides)
            student = sides[0].sequences(found.student_counted, found.student_chunks, self.expander)
            teacher = sides[1].sequences(found.teacher_counted, found.teacher_chunks)
            stats |= found.stats
        student.pairs = {name: pair(student, teacher) for name, pair in self.pairings.items()}
        batch = Batch(student, {} if teacher is None else {TEACHER: teacher})
        cut = {"truncated_rows": int(truncated.sum()), "short_rows": int(short.sum())}
        batch.stats = {**stats, **cut, "bad_rows": 0}
        batch.places, batch.keys = [row.where for row in rows], [row.key for row in rows]
        if teacher is not None and self.known is not None:
            ids = [row.ids for row in sides[1].rows]
            teacher.known = self.known.look_up(batch.keys, ids, teacher.ids.shape[1])
        return batch

    def _align(self, student: _Side, teacher: _Side) -> Alignment:
        return align_rows(
            teacher.tok, student.tok, teacher.rows, student.rows, self.kinds, self.pair_bias,
            self.bias_threshold,
        )  # fmt: skip


@dataclass
class StepCollator:
    """The same collator for all optimizer steps."""

    collator: Collator

    def at(self, step: int) -> tuple[Collator, TokenForms | None]:
        """What makes the micro-batches of a step, and its vocabulary if that is its own."""
        return self.collator, None
