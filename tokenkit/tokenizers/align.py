"""Exact alignment of two tokenizations of one text, for a whole batch, without loops over tokens.

Each row of tokens becomes a stream of symbols: the bytes of ordinary tokens, and one symbol 256
for a group of tokens that stands for a chat marker (``<|eot_id|>`` here, ``<|im_end|> Ċ`` there).
A chunk ends wherever both sides have a token ending after the same number of symbols, as long as
the streams agree. Memory and time are linear in the number of tokens.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np

from tokenkit.tokenizers.byteify import ByteifiedTokenizer
from tokenkit.tokenizers.symbols import Side, add_leading_spaces, build_side
from tokenkit.tokenizers.walk import walk_row

KINDS = ("unconstrained", "space", "unbiased")


@dataclass
class Alignment:
    """Chunk ids per token; chunk k of the teacher covers the bytes of chunk k of the student.

    Attributes:
        teacher_chunks: kind → int32 ``[B, T_t]``, −1 for tokens in no chunk.
        student_chunks: kind → int32 ``[B, T_s]``.
        stats: counts of tokens, of tokens in (unconstrained) chunks, of rows whose texts differ.
    """

    teacher_chunks: dict[str, np.ndarray] = field(default_factory=dict)
    student_chunks: dict[str, np.ndarray] = field(default_factory=dict)
    stats: dict[str, int] = field(default_factory=dict)


@dataclass
class _Chunks:
    """All unconstrained chunks of a batch, in order of row and position."""

    row: np.ndarray  # [C]
    teacher: np.ndarray  # [N_t] chunk of each real teacher token, −1 for none
    student: np.ndarray  # [N_s]


def align(
    teacher_tok: ByteifiedTokenizer,
    student_tok: ByteifiedTokenizer,
    teacher_ids: np.ndarray,
    student_ids: np.ndarray,
    teacher_mask: np.ndarray,
    student_mask: np.ndarray,
    kinds: tuple[str, ...] = ("unconstrained",),
    pair_bias: Any = None,
    bias_threshold: float = 0.0,
) -> Alignment:
    """Align a batch.

    Args:
        teacher_ids, student_ids: ``[B, T_t]`` and ``[B, T_s]`` ids of the same B texts.
        teacher_mask, student_mask: bool of the same shapes, True on real tokens.
        kinds: "unconstrained": the finest chunks; "space": chunks end before a space (on both
            sides) and after markers; "unbiased": chunks end at token pairs whose biases are at
            most ``bias_threshold``.
        pair_bias: for "unbiased", two sparse matrices ``[V_t, V_s]``.
    """
    teacher = build_side(teacher_tok, student_tok, teacher_ids, teacher_mask)
    student = build_side(student_tok, teacher_tok, student_ids, student_mask)
    add_leading_spaces(teacher, student)
    chunks, mismatched = _unconstrained(teacher, student)
    special = _special_chunks(chunks, teacher, student)
    result = Alignment()
    for kind in kinds:
        closed = np.ones(len(chunks.row), dtype=bool)
        if kind == "space":
            closed = special | _before_space(chunks, teacher, student)
        elif kind == "unbiased":
            closed = special | _unbiased(chunks, teacher, student, pair_bias, bias_threshold)
        number = _number_within_rows(chunks.row, closed)
        result.teacher_chunks[kind] = _spread(chunks.teacher, number, teacher_mask)
        result.student_chunks[kind] = _spread(chunks.student, number, student_mask)
    result.stats = {
        "teacher_tokens": int(teacher.row.size),
        "teacher_aligned": int((chunks.teacher >= 0).sum()),
        "student_tokens": int(student.row.size),
        "student_aligned": int((chunks.student >= 0).sum()),
        "mismatched_rows": mismatched,
    }
    return result


def _unconstrained(teacher: Side, student: Side) -> tuple[_Chunks, int]:
    """Chunks at the common ends of both streams, and the number of rows whose streams differ."""
    agree = _agreeing_prefix(teacher, student)
    shorter = np.minimum(teacher.lengths, student.lengths)
    # Keys order ends by row, then position; one more than any length keeps rows apart.
    width = int(max(teacher.lengths.max(initial=0), student.lengths.max(initial=0))) + 2
    teacher_key = teacher.row * width + teacher.end
    student_key = student.row * width + student.end
    ends = np.unique(teacher_key[teacher.visible])
    ends = ends[np.isin(ends, student_key[student.visible], assume_unique=False)]
    ends = ends[ends % width <= agree[ends // width]]
    differing = np.flatnonzero(agree < shorter)
    # A name of a special token in plain text can look different on both sides: look closer.
    ends = ends[~np.isin(ends // width, differing)]
    chunks = _Chunks(
        row=ends // width,
        teacher=_chunk_of(teacher, teacher_key, ends, width),
        student=_chunk_of(student, student_key, ends, width),
    )
    mismatched = 0
    for row in differing:
        chunks, complete = _insert_walked_row(chunks, teacher, student, int(row))
        mismatched += not complete
    return chunks, mismatched


def _agreeing_prefix(teacher: Side, student: Side) -> np.ndarray:
    """Symbols per row up to which both streams are equal, ``[B]``."""
    shorter = np.minimum(teacher.lengths, student.lengths)
    begin = np.cumsum(shorter) - shorter
    row = np.repeat(np.arange(len(shorter)), shorter)
    offset = np.arange(len(row)) - begin[row]
    differs = np.flatnonzero(
        teacher.stream[teacher.starts[row] + offset] != student.stream[student.starts[row] + offset]
    )
    agree = shorter.copy()
    # The first difference of each row is written last.
    agree[row[differs[::-1]]] = offset[differs[::-1]]
    return agree


def _chunk_of(side: Side, keys: np.ndarray, ends: np.ndarray, width: int) -> np.ndarray:
    """Chunk of each token: the first common end not before its own, in the same row."""
    index = np.searchsorted(ends, keys)
    found = index < len(ends)
    found[found] = ends[index[found]] // width == side.row[found]
    return np.where(found & ~side.dropped, index, -1)


def _insert_walked_row(
    chunks: _Chunks, teacher: Side, student: Side, row: int
) -> tuple[_Chunks, bool]:
    """Align one row token by token and insert its chunks at their place."""
    of_teacher, of_student, complete = walk_row(teacher, student, row)
    count = int(of_teacher.max(initial=-1)) + 1
    at = int(np.searchsorted(chunks.row, row))
    for name, side, own in (("teacher", teacher, of_teacher), ("student", student, of_student)):
        ids = getattr(chunks, name)
        ids[ids >= at] += count
        ids[side.tokens_of(row)] = np.where(own >= 0, own + at, -1)
    new_rows = np.insert(chunks.row, at, np.full(count, row))
    return _Chunks(new_rows, chunks.teacher, chunks.student), complete


def _first_and_last(ids: np.ndarray, count: int) -> tuple[np.ndarray, np.ndarray]:
    """First and last token of each chunk, ``[C]`` each."""
    first, last = np.zeros(count, dtype=np.int64), np.zeros(count, dtype=np.int64)
    token = np.flatnonzero(ids >= 0)
    last[ids[token]] = token
    first[ids[token[::-1]]] = token[::-1]
    return first, last


def _special_chunks(chunks: _Chunks, teacher: Side, student: Side) -> np.ndarray:
    """Chunks that are a marker's tokens, no more and no less, on both sides; bool ``[C]``."""
    special = np.ones(len(chunks.row), dtype=bool)
    for ids, side in ((chunks.teacher, teacher), (chunks.student, student)):
        first, last = _first_and_last(ids, len(chunks.row))
        special &= side.match_length[first] == last - first + 1
    return special


def _before_space(chunks: _Chunks, teacher: Side, student: Side) -> np.ndarray:
    """Chunks after which both sides' next token begins with a space; bool ``[C]``."""
    before = np.ones(len(chunks.row), dtype=bool)
    for ids, side in ((chunks.teacher, teacher), (chunks.student, student)):
        _, last = _first_and_last(ids, len(chunks.row))
        following = np.minimum(last + 1, side.row.size - 1)
        same_row = (following > last) & (side.row[following] == chunks.row)
        before &= same_row & side.starts_with_space[following]
    return before


def _unbiased(
    chunks: _Chunks, teacher: Side, student: Side, pair_bias: Any, threshold: float
) -> np.ndarray:
    """Chunks whose last tokens are a pair of small bias both ways (unknown pairs: 0)."""
    _, last_t = _first_and_last(chunks.teacher, len(chunks.row))
    _, last_s = _first_and_last(chunks.student, len(chunks.row))
    t, s = teacher.ids[last_t], student.ids[last_s]
    unbiased = np.ones(len(chunks.row), dtype=bool)
    for matrix in pair_bias:
        known = (t < matrix.shape[0]) & (s < matrix.shape[1])
        bias = np.zeros(len(t))
        bias[known] = np.asarray(matrix[t[known], s[known]]).ravel()
        unbiased &= bias <= threshold
    return unbiased


def _number_within_rows(row: np.ndarray, closed: np.ndarray) -> np.ndarray:
    """Join chunks up to and including each closed one, and number the results from 0 per row."""
    if not len(row):
        return np.zeros(0, dtype=np.int32)
    before = np.cumsum(closed) - closed  # closed chunks strictly before
    first_of_row = np.searchsorted(row, row)
    return (before - before[first_of_row]).astype(np.int32)


def _spread(ids: np.ndarray, number: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """Chunk numbers of real tokens back into a ``[B, T]`` matrix."""
    matrix = np.full(mask.shape, -1, dtype=np.int32)
    values = np.full(len(ids), -1, dtype=np.int32)
    inside = ids >= 0
    values[inside] = number[ids[inside]]
    matrix[mask] = values
    return matrix
